"""Rows in and out, held out and spread; every bad row is named by file and line."""

import pyarrow.parquet as pq
import pytest
from written import GOOD, jsonl, texts

from raft_fast.data.dataset import REFINED_COLUMNS, Row, read_table, split, spread, take_rows, write_rows
from raft_fast.run.errors import UserError
from raft_fast.run.options import DataOptions, TrainOptions
from raft_fast.run.progress import Reporter


def numbered(count):
    return [{"question": f"Why {number}?", "answer": "So."} for number in range(count)]


def take(tmp_path, rows, training, **options):
    data = DataOptions(data=jsonl(tmp_path / "a.jsonl", rows), **options)
    return take_rows(data, training, tmp_path, Reporter())


def test_rows_of_a_file_are_held_out_and_never_trained_on(tmp_path, capsys):
    """No row is in both parts. Row ids that are line numbers tell nothing apart."""
    held = [{"answer": "So.", "question": "Why 5?"}, {"question": "Why 99?", "answer": "So."}]
    training = TrainOptions(heldout_data=jsonl(tmp_path / "held.jsonl", held))
    data = take(tmp_path, numbered(8), training)
    assert "training on 7, 2 held out" in " ".join(capsys.readouterr().err.split())
    assert texts(data.heldout) == texts(read_table(str(tmp_path / "heldout.parquet"), 0).rows) == [
        ("Why 5?", "So."), ("Why 99?", "So.")]
    assert len(data.train) == data.total == 7
    assert ("Why 5?", "So.") not in texts(data.train)
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


def test_too_many_bad_rows_stop_with_the_first_reasons(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [GOOD] * 16 + ["{"] + [GOOD])
    assert len(read_table(path, 0.06).rows) == 17
    with pytest.raises(UserError, match=r"1 of 18 rows of .* are bad.*--max_bad_rows 0.01.*, line 17"):
        read_table(path, 0.01)
    with pytest.raises(UserError, match=r"1 of 18 rows of .*a.jsonl are bad: .*line 17"):
        read_table(path, None)  # a file that no option of the command bounds


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
