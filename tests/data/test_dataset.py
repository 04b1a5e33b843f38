"""Rows in and out; every bad row is named by file and line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
from raft_fast.distillation.metrics import whole_lines
from raft_fast.run.diskmap import DiskMap
from raft_fast.run.errors import UserError
from raft_fast.run.files import read_jsonl, write_json, write_jsonl
from raft_fast.run.options import DataOptions, TrainOptions
from raft_fast.run.progress import Reporter

GOOD = {"question": "How high?", "answer": "Three metres."}


def jsonl(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


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


def test_a_control_character_is_named_with_its_column(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [GOOD] * 9 + ['{"question": "a\tb"}'])
    (bad,) = read_table(path, 0.2).rejected
    assert bad.reason == "not valid JSON: Invalid control character at column 16"


def test_of_how_many_rows_a_slice_is_taken_is_said(tmp_path, capsys):
    rows = [{"question": f"Why {number}?", "answer": "So."} for number in range(14)]
    data = DataOptions(data=jsonl(tmp_path / "a.jsonl", rows), max_rows=6)
    take_rows(data, TrainOptions(heldout=0.15), tmp_path, Reporter())
    assert "training on 6 of 12 (--max_rows 0 takes all), 2 held out, 0 set aside" in " ".join(
        capsys.readouterr().err.split())


def test_rows_of_a_file_are_held_out_and_never_trained_on(tmp_path):
    """As the split promises: no row is in both. Row ids that are line numbers tell nothing apart."""
    rows = [{"question": f"Why {number}?", "answer": "So."} for number in range(8)]
    held = [{"answer": "So.", "question": "Why 5?"}, {"question": "Why 99?", "answer": "So."}]
    training = TrainOptions(heldout_data=jsonl(tmp_path / "held.jsonl", held))
    data = take_rows(DataOptions(data=jsonl(tmp_path / "a.jsonl", rows)), training, tmp_path, Reporter())
    assert [row.prompt[0]["content"] for row in data.heldout] == ["Why 5?", "Why 99?"]
    assert len(data.train) == data.total == 7
    assert "Why 5?" not in {row.prompt[0]["content"] for row in data.train}
    assert "row_id row-000006: is held out, in" in (tmp_path / "rejected.jsonl").read_text()
    assert [row.prompt for row in read_table(str(tmp_path / "heldout.parquet"), 0).rows] == [
        row.prompt for row in data.heldout]
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    jsonl(tmp_path / "held.jsonl", held[1:])
    with pytest.raises(UserError, match="the data changed"):
        take_rows(DataOptions(data=str(tmp_path / "a.jsonl")), training, tmp_path, Reporter())


@pytest.mark.parametrize(("held", "said"), [
    ([{"question": f"Why {number}?", "answer": "So."} for number in range(3)], "holds every row of --data"),
    ([{"question": "x"}], "--heldout_data .* cannot be used"),
])
def test_rows_that_cannot_be_held_out_are_refused(tmp_path, held, said):
    data = DataOptions(data=jsonl(tmp_path / "a.jsonl", [{"question": f"Why {n}?", "answer": "So."}
                                                         for n in range(3)]))
    training = TrainOptions(heldout_data=jsonl(tmp_path / "held.jsonl", held))
    with pytest.raises(UserError, match=said):
        take_rows(data, training, tmp_path, Reporter())
    with pytest.raises(UserError, match="--heldout_data nowhere: must be a file"):
        TrainOptions(heldout_data="nowhere")


def test_bad_rows_are_set_aside_with_file_line_and_reason(tmp_path):
    bad = ['{"question": ', {"question": "x"}, {"question": "x", "answer": "  "}, [1],
           {"question": 3, "answer": "x"}, {"messages": [{"role": "user", "content": "x"}]},
           {"messages": [{"role": "robot", "content": "x"}]}]
    path = jsonl(tmp_path / "a.jsonl", [GOOD] * 60 + bad)
    table = read_table(path, 0.2)
    assert len(table.rows) == 60
    assert [rejected.line for rejected in table.rejected] == list(range(61, 68))
    reasons = [rejected.reason for rejected in table.rejected]
    assert reasons[0].startswith("not valid JSON")
    assert "needs prompt and completion" in reasons[1]
    assert reasons[2:5] == ["answer is empty", "must be an object, is list",
                            "question must be text, is int"]
    assert str(table.rejected[0]).startswith(f"{path}, line 61: ")


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
    ("missing.jsonl", None, "no such file"),
    ("empty.jsonl", "", "holds no rows"),
    ("a.txt", "x", "unknown ending"),
    ("a.parquet", "not parquet", "cannot be read as .parquet"),
    ("a.jsonl", '{"foo": 1}\n', "no row of .* can be used: .*line 1: has the columns foo"),
])
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_table(str(tmp_path / name), 0.1)


def test_a_folder_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        read_table(str(tmp_path), 0.1)
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="not UTF-8"):
        read_table(str(tmp_path / "a.jsonl"), 0.1)


def test_a_repeated_row_id_is_rejected(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{**GOOD, "id": "x"}, {**GOOD, "id": "x"}])
    assert "stands in line 1 already" in read_table(path, 0.5).rejected[0].reason


@pytest.mark.parametrize(("record", "reason"), [
    ({**GOOD, "similarity": "high"}, "similarity must be a number, is str"),
    ({**GOOD, "gold": 3}, "gold must be text, is int"),
    ({"question": "x\ud800", "answer": "y"}, "question holds half a character"),
    ({"prompt": "x", "completion": [{"role": "user", "content": "y"}]}, "end with an assistant turn"),
])
def test_values_that_cannot_be_written_are_rejected(tmp_path, record, reason):
    table = read_table(jsonl(tmp_path / "a.jsonl", [GOOD, record]), 0.5)
    assert reason in table.rejected[0].reason
    write_rows(table.rows, tmp_path / "out.parquet")


def test_one_line_that_is_not_utf8_is_rejected_alone(tmp_path):
    line = json.dumps(GOOD).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([line, b'{"question": "\xff"}', line]))
    table = read_table(str(tmp_path / "a.jsonl"), 0.5)
    assert (len(table.rows), table.rejected[0].line) == (2, 2)
    assert "not UTF-8 at byte" in table.rejected[0].reason


def test_an_id_of_zero_is_an_id(tmp_path):
    table = read_table(jsonl(tmp_path / "a.jsonl", [{**GOOD, "id": 0}]), 0)
    assert table.rows[0].row_id == "0"


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
    assert split(rows, 0.1, seed=0) == (train, heldout)
    assert split(rows, 0.1, seed=1) != (train, heldout)


def test_split_of_a_row_does_not_depend_on_other_categories():
    alone = {r.row_id for r in split(rows_of({"big": 30}), 0.2, 0)[1]}
    among = {r.row_id for r in split(rows_of({"big": 30, "x": 9}), 0.2, 0)[1] if r.category == "big"}
    assert alone == among


def test_spread_is_even_and_keeps_order():
    rows = rows_of({"big": 30, "small": 3})
    chosen = spread(rows, 8, seed=0)
    assert [r for r in rows if r in chosen] == chosen
    assert sum(r.category == "small" for r in chosen) == 3
    assert spread(rows, 0, 0) == spread(rows, 99, 0) == rows


def test_json_writers_refuse_nan_and_leave_nothing_half_written(tmp_path):
    for write in (write_json, write_jsonl):
        with pytest.raises(ValueError, match="JSON compliant"):
            write([{"x": float("nan")}], tmp_path / "out.json")
        assert not (tmp_path / "out.json").exists()


CATEGORIES = "aabbbbbbbcab"


@pytest.fixture
def rows_on_disk(tmp_path):
    """Twelve rows of three categories, and two that cannot be used."""
    records = [{**GOOD, "id": f"r{place}", "category": name} for place, name in enumerate(CATEGORIES)]
    return jsonl(tmp_path / "a.jsonl", [*records[:5], "{", *records[5:], {**GOOD, "id": "r3"}])


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0c"])
def test_a_line_of_json_ends_at_a_newline_alone(tmp_path, mark):
    records = [{"text": f"one{mark}two", "step": 1}, {"text": mark, "step": 2}]
    write_jsonl(records, tmp_path / "log.jsonl")
    text = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    assert list(read_jsonl(tmp_path / "log.jsonl")) == records
    (tmp_path / "log.jsonl").write_text(text.rstrip("\n"), encoding="utf-8")
    assert list(read_jsonl(tmp_path / "log.jsonl")) == records
    (tmp_path / "log.jsonl").write_text(text + '{"step": 3, "torn' + mark, encoding="utf-8")
    assert whole_lines(tmp_path / "log.jsonl") == records


def test_rows_left_on_disk_are_the_rows_in_memory_however_often_they_are_read(rows_on_disk):
    table, rows = read_table(rows_on_disk, 0.5), open_rows(rows_on_disk, 0.5)
    assert len(rows) == len(table.rows) == 12
    assert list(rows) == list(rows) == table.rows
    assert rows.rejected == table.rejected
    assert rows.rejected[1].reason == "row_id 'r3' stands in line 4 already"
    assert not rows.refined
    with pytest.raises(UserError, match="2 of 14 rows are bad"):
        open_rows(rows_on_disk, 0.1)


@pytest.mark.parametrize("count", [0, 1, 5, 11, 12, 99])
def test_rows_on_disk_are_spread_as_rows_in_memory(rows_on_disk, count):
    table, rows = read_table(rows_on_disk, 0.5), open_rows(rows_on_disk, 0.5)
    chosen = rows.spread(count, seed=3)
    assert list(chosen) == spread(table.rows, count, seed=3)
    assert len(chosen) == len(list(chosen))


@pytest.mark.parametrize("count", [0, 7])
def test_shards_deal_the_rows_out_in_turns(rows_on_disk, count):
    rows = open_rows(rows_on_disk, 0.5).spread(count, seed=3)
    dealt = [rows.shard(number, 3) for number in (1, 2, 3)]
    assert [list(one) for one in dealt] == [list(rows)[place::3] for place in range(3)]
    assert sum(map(len, dealt)) == len(rows)


def test_a_map_on_disk_keeps_the_last_value_of_a_key():
    places = DiskMap()
    for number in range(2000):
        places[f"key {number % 1000}".encode()] = number
    assert len(places) == 1000
    assert places.get(b"key 7") == 1007
    assert places.get(b"key") is None


@pytest.mark.parametrize("text", [
    'Question,Answer\n"why, then?",so\n', "question;answer\nwhy, then?;so\n",
    "ANSWER\tquestion \nso\twhy, then?\n",
])
def test_csv_as_spreadsheets_write_it(tmp_path, text):
    path = tmp_path / "rows.csv"
    path.write_text("\ufeff" + text)
    (row,) = read_table(str(path), 0.0).rows
    assert (row.prompt[0]["content"], row.gold) == ("why, then?", "so")


def test_a_csv_line_with_more_fields_than_columns_is_set_aside(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("question,answer\nwhy?,so, then\nhow?,thus\n")
    table = read_table(str(path), 0.5)
    assert [row.gold for row in table.rows] == ["thus"]
    assert "more fields than the first line names" in table.rejected[0].reason
