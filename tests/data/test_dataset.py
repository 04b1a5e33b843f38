"""Rows in and out; every bad row is named by file and line."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from written import GOOD, asked, jsonl

from raft_fast.data.dataset import (
    REFINED_COLUMNS,
    Rejected,
    Row,
    judge_bad_rows,
    open_rows,
    read_table,
    split,
    spread,
    write_rows,
)
from raft_fast.data.training_rows import take_rows
from raft_fast.run.errors import UserError
from raft_fast.run.options import DataOptions, TrainOptions
from raft_fast.run.progress import Reporter


@pytest.mark.parametrize("record", [
    GOOD,
    {"prompt": "How high?", "completion": " Three metres. "},
    {"prompt": [{"role": "user", "content": "How high?"}], "completion": "Three metres."},
    {"prompt": [{"role": "user", "content": "How high?"}],
     "completion": [{"role": "assistant", "content": "Three metres."}]},
    {"messages": [{"role": "user", "content": "How high?"},
                  {"role": "assistant", "content": "Three metres."}]},
], ids=["question", "prompt", "conversational prompt", "conversational both", "messages"])
def test_every_layout_gives_the_same_row(tmp_path, record):
    (row,) = read_table(jsonl(tmp_path / "a.jsonl", [record]), 0).rows
    assert row.prompt == [{"role": "user", "content": "How high?"}]
    assert row.completion == row.gold == "Three metres."


def test_csv_and_parquet(tmp_path):
    (tmp_path / "a.csv").write_text('question,answer,category\n"How\nhigh?",Three,x\nWhere?,,y\n')
    pq.write_table(pa.Table.from_pylist([GOOD]), tmp_path / "a.parquet")
    table = read_table(str(tmp_path / "a.csv"), 0.5)
    assert [(row.completion, row.category) for row in table.rows] == [("Three", "x")]
    assert [(bad.line, bad.reason) for bad in table.rejected] == [(4, "answer is empty")]
    assert read_table(str(tmp_path / "a.parquet"), 0).rows[0].completion == "Three metres."


def numbered(count):
    return [{"question": f"Why {number}?", "answer": "So."} for number in range(count)]


def take(tmp_path, rows, training, **options):
    data = DataOptions(data=jsonl(tmp_path / "a.jsonl", rows), **options)
    return take_rows(data, training, tmp_path, Reporter())


def test_of_how_many_rows_a_slice_is_taken_is_said(tmp_path, capsys):
    take(tmp_path, numbered(14), TrainOptions(heldout=0.15), max_rows=6)
    assert "training on 6 of 12 (--max_rows 0 takes all), 2 held out, 0 set aside" in " ".join(
        capsys.readouterr().err.split())


def test_rows_of_a_file_are_held_out_and_never_trained_on(tmp_path):
    """No row is in both parts. Row ids that are line numbers tell nothing apart."""
    held = [{"answer": "So.", "question": "Why 5?"}, {"question": "Why 99?", "answer": "So."}]
    training = TrainOptions(heldout_data=jsonl(tmp_path / "held.jsonl", held))
    data = take(tmp_path, numbered(8), training)
    assert asked(data.heldout) == asked(read_table(str(tmp_path / "heldout.parquet"), 0).rows) == [
        "Why 5?", "Why 99?"]
    assert len(data.train) == data.total == 7
    assert "Why 5?" not in asked(data.train)
    assert "row_id row-000006: is held out, in" in (tmp_path / "rejected.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    jsonl(tmp_path / "held.jsonl", held[1:])
    with pytest.raises(UserError, match="the data changed"):
        take(tmp_path, numbered(8), training)


@pytest.mark.parametrize(("held", "said"), [
    (numbered(3), "holds every row of --data"), ([{"question": "x"}], "--heldout_data .* cannot be used"),
    (None, "--heldout_data nowhere: must be a file")])
def test_rows_that_cannot_be_held_out_are_refused(tmp_path, held, said):
    with pytest.raises(UserError, match=said):
        take(tmp_path, numbered(3), TrainOptions(
            heldout_data=jsonl(tmp_path / "held.jsonl", held) if held else "nowhere"))


@pytest.mark.parametrize(("record", "reason"), [
    ('{"question": ', "not valid JSON"),
    ('{"question": "a\tb"}', "not valid JSON: Invalid control character at column 16"),
    (b'{"question": "\xff"}', "not UTF-8 at byte"),
    ([1], "must be an object, is list"),
    ({"question": "x"}, "needs prompt and completion"),
    ({"question": "x", "answer": "  "}, "answer is empty"),
    ({"question": 3, "answer": "x"}, "question must be text, is int"),
    ({"messages": [{"role": "user", "content": "x"}]}, ""),
    ({"messages": [{"role": "robot", "content": "x"}]}, ""),
    ({"prompt": "x", "completion": [{"role": "user", "content": "y"}]}, "end with an assistant turn"),
    ({"question": "x\ud800", "answer": "y"}, "question holds half a character"),
    ({**GOOD, "similarity": "high"}, "similarity must be a number, is str"),
    ({**GOOD, "gold": 3}, "gold must be text, is int"),
    ({**GOOD, "id": "x"}, "stands in line 1 already"),
], ids=lambda value: ascii(value)[:40])
def test_a_bad_row_is_set_aside_alone_with_file_line_and_reason(tmp_path, record, reason):
    path = jsonl(tmp_path / "a.jsonl", [{**GOOD, "id": "x"}, GOOD, record, {**GOOD, "id": 0}])
    table = read_table(path, 0.5)
    assert [row.row_id for row in table.rows] == ["x", "row-000002", "0"]
    (bad,) = table.rejected
    assert str(bad).startswith(f"{path}, line 3: ")
    assert reason in bad.reason
    write_rows(table.rows, tmp_path / "out.parquet")


def test_too_many_bad_rows_stop_with_the_first_reasons(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [GOOD] * 16 + ["{"] + [GOOD])
    assert len(read_table(path, 0.1).rows) == 17
    with pytest.raises(UserError, match=r"1 of 18 rows are bad.*--max_bad_rows 0.01.*a\.jsonl, line 17.*: "
                                        r"fix them, or allow more with --max_bad_rows 0.06$"):
        read_table(path, 0.01)
    assert len(read_table(path, 0.06).rows) == 17
    with pytest.raises(UserError, match=r"1 of 18 rows of .*a.jsonl are bad: .*line 17.*: fix them$"):
        read_table(path, None)  # a file that no option of the command bounds


@pytest.mark.parametrize("bad", [1, 29, 57, 58, 99])
def test_the_share_that_is_offered_is_enough(bad):
    rejected = [Rejected("a.jsonl", 1, "why")] * bad
    with pytest.raises(UserError) as refused:
        judge_bad_rows("a.jsonl", 100 - bad, rejected, 0.0)
    judge_bad_rows("a.jsonl", 100 - bad, rejected, float(str(refused.value).split()[-1]))


@pytest.mark.parametrize(("name", "content", "message"), [
    ("missing.jsonl", None, "no such file"), (".", None, "is a folder"),
    ("empty.jsonl", b"", "holds no rows"), ("a.txt", b"x", "unknown ending"),
    ("a.parquet", b"not parquet", "cannot be read as .parquet"), ("a.jsonl", b"\xff\xfe{}", "not UTF-8"),
    ("a.jsonl", b'{"foo": 1}\n', "no row of .* can be used: .*line 1: has the columns foo")])
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_table(str(tmp_path / name), 0.1)


def test_refined_rows_survive_the_round_trip(tmp_path):
    rows = [Row("a", [{"role": "user", "content": "q"}], "fused", "gold", "cat", "rewrite", "fused",
                "fused", 0.9),
            Row("b", [{"role": "user", "content": "q"}], "gold", "gold")]
    write_rows(rows, tmp_path / "refined.parquet")
    table = read_table(str(tmp_path / "refined.parquet"), 0)
    assert table.rows == rows
    assert table.refined
    assert pq.read_schema(tmp_path / "refined.parquet").names == list(REFINED_COLUMNS)
    assert not read_table(jsonl(tmp_path / "raw.jsonl", [GOOD]), 0).refined


def rows_of(sizes):
    return [Row(f"{name}{i}", [{"role": "user", "content": "q"}], "a", "a", name)
            for name, size in sizes.items() for i in range(size)]


def test_split_gives_every_category_both_and_loses_nothing():
    rows = rows_of({"big": 30, "two": 2, "one": 1})
    train, heldout = split(rows, 0.1, seed=0)
    assert sorted(r.row_id for r in train + heldout) == sorted(r.row_id for r in rows)
    assert {r.category for r in train} == {"big", "two", "one"}
    assert [sum(r.category == c for r in heldout) for c in ("big", "two", "one")] == [3, 1, 0]
    assert split(rows, 0.1, seed=0) == (train, heldout) != split(rows, 0.1, seed=1)
    alone = split(rows_of({"big": 30}), 0.1, seed=0)[1]  # other categories change nothing
    assert alone == [row for row in heldout if row.category == "big"]


def test_spread_is_even_and_keeps_order():
    rows = rows_of({"big": 30, "small": 3})
    chosen = spread(rows, 8, seed=0)
    assert [r for r in rows if r in chosen] == chosen
    assert sum(r.category == "small" for r in chosen) == 3
    assert spread(rows, 0, 0) == spread(rows, 99, 0) == rows


CATEGORIES = "aabbbbbbbcab"


@pytest.fixture
def rows_on_disk(tmp_path):
    """Twelve rows of three categories, and two that cannot be used."""
    records = [{**GOOD, "id": f"r{place}", "category": name} for place, name in enumerate(CATEGORIES)]
    return jsonl(tmp_path / "a.jsonl", [*records[:5], "{", *records[5:], {**GOOD, "id": "r3"}])


def test_rows_left_on_disk_are_the_rows_in_memory_however_often_they_are_read(rows_on_disk):
    table, rows = read_table(rows_on_disk, 0.5), open_rows(rows_on_disk, 0.5)
    assert len(rows) == len(table.rows) == 12
    assert list(rows) == list(rows) == table.rows
    assert rows.rejected == table.rejected
    assert rows.rejected[1].reason == "row_id 'r3' stands in line 4 already"
    assert not rows.refined
    with pytest.raises(UserError, match="2 of 14 rows are bad"):
        open_rows(rows_on_disk, 0.1)


@pytest.mark.parametrize("count", [0, 1, 5, 7, 11, 12, 99])
def test_rows_on_disk_are_spread_as_rows_in_memory_and_dealt_out_in_turns(rows_on_disk, count):
    table, chosen = read_table(rows_on_disk, 0.5), open_rows(rows_on_disk, 0.5).spread(count, seed=3)
    assert list(chosen) == spread(table.rows, count, seed=3)
    dealt = [chosen.shard(number, 3) for number in (1, 2, 3)]
    assert [list(one) for one in dealt] == [list(chosen)[place::3] for place in range(3)]
    assert sum(map(len, dealt)) == len(chosen) == len(list(chosen))
