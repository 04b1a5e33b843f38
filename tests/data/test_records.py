"""Files as people have them: what of a broken one is read, and what is said of the rest."""

import bz2
import gzip
import json
import random
import time
from contextlib import suppress

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from written import GOOD, jsonl, texts

from raft_fast.data.dataset import read_table
from raft_fast.run.errors import UserError

HEADER = "question,answer\n"
LINES = [f"q{number},a{number}\n" for number in range(1, 101)]
UNUSED = "columns and message keys that are not used: "


def write(path, text):
    data, name = text if isinstance(text, bytes) else text.encode(), path.name.lower()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else
                     bz2.compress(data) if name.endswith(".bz2") else
                     pa.compress(data, "zstd", asbytes=True) if name.endswith(".zst") else data)
    return str(path)


def table_of(path, text):
    return read_table(write(path, text), 1.0)


@pytest.mark.parametrize(("changed", "bad"), [
    ({5: 'q5,"a5\n'}, [6]), ({5: '"q5,a5\n'}, [6]), ({5: 'q5,"a5\n', 90: '"q90,a90\n'}, [6, 91]),
    ({5: 'q5,"a5\n', 50: '"q50","two\nlines"\n'}, [6]),
    ({5: 'q5,"a5\n', 50: 'q50,"say ""x"""\n'}, [6]), ({100: 'q100,"a100'}, [101]),
    ({5: '"q5" and more,a5\n'}, [6]), ({5: 'q5,"they say "no" to it"\n'}, [6]),
    ({5: 'q5,"a\nb\n', 7: '"q7","a7"\n'}, [6, 7]),
])
def test_a_quote_that_is_never_closed_costs_its_own_row(tmp_path, changed, bad):
    for end in ("\n", "\r\n", "\r"):
        lines = [changed.get(number, line) for number, line in enumerate(LINES, 1)]
        found = table_of(tmp_path / "a.csv", (HEADER + "".join(lines)).replace("\n", end))
        assert [one.line for one in found.rejected] == bad
        asked = {question for question, _ in texts(found.rows)}
        assert {f"q{number}" for number in range(1, 101) if number not in changed} <= asked
        assert len(found.rows) >= 100 - len(changed)
        assert "double quotes" in found.rejected[0].reason


@pytest.mark.parametrize("line", ['x",",\n', 'q,"a\n', '"q,a\n', '"""\n', 'q,"' + '""' * 50 + "\n"])
def test_reading_a_csv_again_is_bounded(tmp_path, line):
    (tmp_path / "a.csv").write_text(HEADER + line * 30_000 + "q,a\n")
    start = time.process_time()
    with suppress(UserError):
        read_table(str(tmp_path / "a.csv"), 1.0)
    assert time.process_time() - start < 10


@pytest.mark.parametrize(("text", "rows"), [
    ('\ufeff"Question";"answer";"note"\r\n"a\r\nb;";"say ""so""";\r\n\r\n5" pipe;x\r\n',
     [("a\r\nb;", 'say "so"'), ('5" pipe', "x")]),
    (f"{HEADER}a\u2028b,c\x85d\ne\x00f,g\n", [("a\u2028b", "c\x85d"), ("e\x00f", "g")]),
    (f'{HEADER}q,"{"word " * 100_000}\nend"\n', [("q", "word " * 100_000 + "\nend")]),
    ('\ufeffQuestion,Answer\n"why, then?",so\n', [("why, then?", "so")]),  # as spreadsheets write it
    ("\ufeffANSWER\tquestion \nso\twhy, then?\n", [("why, then?", "so")]),
    ("question,answer,note\nq,a,é\n".encode("latin-1"), [("q", "a")]),  # a column that is not used
], ids=range(6))
def test_every_field_of_a_csv_is_read_as_it_is_meant(tmp_path, text, rows):
    found = table_of(tmp_path / "a.csv", text)
    assert (texts(found.rows), found.rejected) == (rows, [])


@pytest.mark.parametrize(("text", "reason"), [
    ((HEADER + "q,é\nq2,a\n").encode("latin-1"), "not UTF-8"),
    (HEADER + "why?,so, then\nq2,a\n", "more fields than the first line names")])
def test_a_bad_line_of_a_csv_costs_its_row(tmp_path, text, reason):
    found = table_of(tmp_path / "a.csv", text)
    assert ([row.row_id for row in found.rows], [one.line for one in found.rejected]) == (["row-000003"], [2])
    assert reason in found.rejected[0].reason


FORMATS = {  # a text, the ids of its good rows, the line of its bad one
    "json": (f"\ufeff{json.dumps(GOOD)}\n{{\n\n{json.dumps(GOOD)}\n", ["row-000001", "row-000004"], 2),
    "csv": ('question,answer\nq,"a\nb"\nq,\n\nq,a; b\n', ["row-000003", "row-000006"], 4),
    "tsv": ('question\tanswer\nq\t"a\nb"\nq\t\n\nq\ta; b\n', ["row-000003", "row-000006"], 4)}


@pytest.mark.parametrize("name", ["a.JSONL", "a.ndjson", "A.v2.JSONL.GZ", "a.jsonl.zst", "a.json.bz2",
                                  "a.json", "a.csv.gz", "a.CSV", "a.TSV.gz"])
def test_a_format_is_known_by_its_ending_in_any_case_and_compressed(tmp_path, name):
    text, good, bad = next(FORMATS[kind] for kind in FORMATS if kind in name.lower())
    found = table_of(tmp_path / name, text)
    assert ([row.row_id for row in found.rows], [one.line for one in found.rejected]) == (good, [bad])
    assert "json" in name.lower() or [row.gold for row in found.rows] == ["a\nb", "a; b"]


def test_one_element_of_a_json_list_is_set_aside_alone(tmp_path):
    rows = [GOOD, 7, {"question": "\ud800", "answer": "a"}, GOOD]
    found = table_of(tmp_path / "a.json", f" {json.dumps(rows, indent=1)}\n")
    assert [row.row_id for row in found.rows] == ["row-000001", "row-000004"]
    assert [one.line for one in found.rejected] == [2, 3]


@pytest.mark.parametrize(("name", "data", "said"), [
    ("a.json", b'[{"question": "a", "answer": "b"}, {"question": "5" pipe"}, {}]', "cannot be read as .json"),
    ("a.json", b"[" * 100_000, "cannot be read as .json"),
    ("a.json", b"[]", "holds no rows"), ("a.csv", HEADER.encode(), "holds no rows"),
    ("a.json", b'{"data": []}', "has the columns data; needs prompt"),
    ("a.jsonl", bytes(range(256)) * 40, "no row of .* can be used: .*line 1: not"),
    ("a.jsonl", b"\xff\xfe{}", "codec can't decode byte"), ("a.jsonl", b"", "holds no rows"),
    ("a.txt", b"x", "unknown ending"),
    ("a.jsonl", b'{"foo": 1}\n', "no row of .* can be used: .*line 1: has the columns foo"),
    ("a.jsonl.gz", b'{"question": "a"}\n', "cannot be read as .gz"),
    ("a.jsonl.gz", gzip.compress(bytes(random.Random(0).randbytes(9000)))[:-900], "cannot be read as .gz"),
    ("a.parquet", b"not parquet", "cannot be read as .parquet"),
    ("a.csv", b"why,so\nhow,thus\n", "has the columns why, so; needs"),
    ("a.csv", b'question,"answer\na,b\n', "line 1: its double quotes do not match"), ("a.csv", b"", "no row"),
    ("missing.jsonl", None, "no such file"), ("x" * 5000 + ".jsonl", None, "no such file"),
    (".", None, "is a folder"),
], ids=range(19))
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, name, data, said):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=said) as error:
        read_table(str(tmp_path / name), 0.5)
    assert "\n" not in str(error.value)


LATE = pa.array([0, 2**62], pa.timestamp("us"))  # the second is beyond year 9999


def test_a_value_that_python_lacks_costs_nothing_where_it_is_not_used(tmp_path):
    late = {"when": LATE, "took": LATE.cast(pa.int64()).cast(pa.duration("us")), "raw": [b"\xff", b""]}
    both = {"question": ["a", "b"], "answer": ["c", "d"]}
    pq.write_table(pa.table(both | late), tmp_path / "a.parquet")
    found = read_table(str(tmp_path / "a.parquet"), 0)
    assert (texts(found.rows), found.notes) == ([("a", "c"), ("b", "d")], [UNUSED + "when, took, raw"])
    pq.write_table(pa.table(both | {"id": LATE}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read as \.parquet: date value out of range"):
        read_table(str(tmp_path / "a.parquet"), 0.5)


def test_parquet_of_other_types_and_nulls(tmp_path):
    none = {"name": None, "tool_calls": None}
    turns = [{"role": "user", "content": "q", **none}, {"role": "assistant", "content": "a", **none}]
    columns = {"messages": [turns, None, [None, turns[1]]],
               "question": pa.array([None, "q2", None]).dictionary_encode(),
               "answer": pa.array([None, "a2", None], pa.large_string())}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = read_table(str(tmp_path / "a.parquet"), 0.5)
    assert [row.gold for row in found.rows] == ["a", "a2"]
    assert (found.notes, len(found.rejected)) == ([], 1)


@pytest.mark.parametrize("splits", [(), ("train",), ("test", "train"), ("test",), ("test", "validation")])
def test_the_split_train_or_the_only_one_is_taken(tmp_path, monkeypatch, splits):
    rows = datasets.Dataset.from_list([{**GOOD, "when": 1}, {**GOOD, "when": 2}])
    kept = datasets.DatasetDict(dict.fromkeys(splits, rows)) if splits else rows
    kept.save_to_disk(str(tmp_path / "kept"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: kept)
    for source in (str(tmp_path / "kept"), "somebody/rows"):
        if "validation" in splits:
            with pytest.raises(UserError, match="has no split train but test, validation"):
                read_table(source, 0)
            continue
        found = read_table(source, 0)
        assert (len(found.rows), found.notes) == (2, [UNUSED + "when"])


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize(("columns", "row_id", "asked"), [
    ([" Question", "Note", "ANSWER ", "Id"], "4", "1"),
    (["Question", "question", "answer", "ID"], "4", "2"), (["Id", "id", "Question", "answer"], "2", "3")])
def test_columns_are_known_in_any_case_and_exact_names_come_first(tmp_path, name, columns, row_id, asked):
    record = dict(zip(columns, "1234", strict=True))
    source = jsonl(tmp_path / name, [record])
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist([record]), source)
    (found,) = read_table(source, 0).rows
    assert (found.row_id, found.prompt[0]["content"]) == (row_id, asked)
