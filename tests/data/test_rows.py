"""Layouts and values as people have them: what becomes a row, what is set aside, what is left out."""

import json
import sys
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from written import GOOD, jsonl

from raft_fast import paraphrase, refine
from raft_fast.data.dataset import read_table, take_rows, write_rows
from raft_fast.run.files import write_jsonl
from raft_fast.run.options import DataOptions, TrainOptions
from raft_fast.run.progress import Reporter


def turn(content, role="assistant", **more):
    return {"role": role, "content": content, **more}


def asked(*more):
    return [turn("q", "user"), *more]


def table(tmp_path, *records):
    return read_table(jsonl(tmp_path / "rows.jsonl", records), 1.0)


def row(tmp_path, record):
    found = table(tmp_path, GOOD, record)
    return found.rows[1] if len(found.rows) == 2 else found.rejected[0].reason


ANSWERS = [turn("first"), turn("and?", "user"), turn("last")]


@pytest.mark.parametrize(("record", "prompt", "gold"), [
    ({"prompt": "q", "completion": " a "}, ["q"], "a"), ({"prompt": asked(), "completion": "a"}, ["q"], "a"),
    ({"messages": asked(turn("a"))}, ["q"], "a"),
    ({"prompt": "q", "completion": ANSWERS}, ["q", "first", "and?"], "last"),
    ({"prompt": asked(), "completion": ANSWERS}, ["q", "first", "and?"], "last"),
    ({"messages": asked(turn("no", weight=0), turn("q2", "user"), turn("a", weight=1))},
     ["q", "no", "q2"], "a"),  # an earlier turn of weight 0 is a part of the prompt
    *[({**empty, "question": "q", "answer": "taken"}, ["q"], "taken") for empty in (
        {"prompt": None, "completion": None}, {"prompt": None, "completion": "c"},
        {"prompt": "p", "completion": ""}, {"messages": []}, {"messages": None})],
    ({"messages": json.dumps(asked(turn("a")))}, ["q"], "a"),  # messages as JSON text
    ({"prompt": json.dumps(asked()), "completion": json.dumps([turn("a")])}, ["q"], "a"),
    ({"prompt": json.dumps(asked()), "completion": "a"}, ["q"], "a"),
    ({"question": json.dumps(asked()), "answer": "a"}, ["q"], "a"),
    *[({"prompt": prompt, "completion": json.dumps([turn("a")])}, ["q"], json.dumps([turn("a")]))
      for prompt in ("q", asked())],  # what is asked about may be JSON
    *[({"prompt": text, "completion": text}, [text], text)  # only looks like messages
      for text in ("[1, 2]", "[", '["a"]', '[{"x": 1}]', "[" * 2000, "[]")],
    *[({**GOOD, "answer": text}, ["How high?"], text)  # joiners stay
      for text in ("می\u200cخواهم", "👩\u200d💻", "\ufeffa", "e\u0301", ".", "7️⃣")],
    ({"messages": [turn("Be brief.", "developer"), *asked(turn("a"))]}, ["Be brief.", "q"], "a"),
], ids=lambda value: ascii(value)[:40])
def test_what_becomes_a_row(tmp_path, record, prompt, gold):
    found = row(tmp_path, record)
    assert ([one["content"] for one in found.prompt], found.gold) == (prompt, gold)
    assert {one["role"] for one in found.prompt} <= {"system", "user", "assistant"}  # developer is system


@pytest.mark.parametrize(("record", "said"), [
    ('{"question": "a\tb"}', "not valid JSON: Invalid control character at column 16"),
    (b'{"question": "\xff"}', "not valid JSON: 'utf-8' codec"),
    ([1], "must be an object, is list"), ({"question": "x"}, "needs prompt and completion"),
    ({"question": 3, "answer": "x"}, "question must be text, is int"),
    ({"messages": asked()}, "messages must end with an assistant turn"),
    ({"question": "x\ud800", "answer": "y"}, "question holds half a character"),
    ({**GOOD, "gold": 3}, "gold must be text, is int"),
    ({**GOOD, "id": "x"}, "duplicate row_id 'x' (first seen on line 1)"),
    ({"prompt": "q", "completion": [turn("first"), turn("second")]}, "must have a user turn before"),
    ({**GOOD, "weight": 0}, "weight 0"), ({**GOOD, "weight": "0.0"}, "weight 0"),
    ({"messages": asked(turn("a", weight=0))}, "weight 0"),
    ({"messages": asked(turn(None, tool_calls=[{"id": 1}]))}, "messages: content is empty"),
    ({"messages": asked(turn("4", "tool"), turn("a"))}, "has 'tool'"),
    *[({**GOOD, "answer": text}, "answer is empty")  # it shows nothing
      for text in ("\u2060", "\u00ad \u200e\u202a", "\ufe0f\U000e0101", "\x00", "\u3164\u2800", " \n ")],
    ({**GOOD, "id": "x\ud800"}, "id holds half"), ({**GOOD, "category": "\udfff"}, "category holds half"),
    ({"question": "q", "\ud800": "x"}, "has the columns question, \\ud800"),
    *[(text, "not valid JSON: ") for text in (
        f'{{"question": "q", "answer": "a", "n": {"1" * 5000}}}', '{"a":' * 100_000,
        f'{{"question": "q", "answer": "a", "n": {"[" * 1000 + "]" * 1000}}}', "[" * 9999 + "]" * 9999)],
], ids=lambda value: ascii(value)[:40])
def test_a_bad_row_is_set_aside_alone_with_file_line_and_reason(tmp_path, record, said):
    found = table(tmp_path, {**GOOD, "id": "x"}, record, {**GOOD, "id": 0})
    assert [one.row_id for one in found.rows] == ["x", "0"]
    (bad,) = found.rejected
    assert str(bad).startswith(f"{tmp_path / 'rows.jsonl'}, line 2: ")
    assert said in bad.reason
    write_jsonl(found.rejected, tmp_path / "rejected.jsonl")  # whatever is in it
    write_rows(found.rows, tmp_path / "rows.parquet")


def test_what_is_not_used_is_named_once_by_every_command(tmp_path, capsys, monkeypatch):
    turns = asked(turn("a", tool_calls=[1], name="n", refusal=None))
    other = {"messages": turns, "tools": [1], "system": "s"}
    plain = [{**GOOD, "context": "c", "weight": 0.5, "docs": None, "z": []} for _ in range(4)]
    found = table(tmp_path, other, other, *plain)
    (line,) = found.notes
    assert line.endswith(" not used: tools, system, tool_calls, name, context, weight")
    data = DataOptions(data=str(tmp_path / "rows.jsonl"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["paraphrase", "--data", data.data, "--model", "./nowhere"])
    for read in (lambda: take_rows(data, TrainOptions(), tmp_path, Reporter()),
                 lambda: refine.open_raw(data, Reporter()), paraphrase.main):
        with suppress(SystemExit):
            read()
        assert capsys.readouterr().err.count(line) == 1
    assert table(tmp_path, GOOD).notes == []
    assert table(tmp_path, {**GOOD, "note": "\ud800", "\udc00": 1}).rows  # half a character costs nothing


def test_a_row_set_aside_has_its_own_id_where_it_is_known(tmp_path):
    mine = {"question": "q", "answer": "", "id": "mine"}
    found = table(tmp_path, GOOD, mine, {**GOOD, "row_id": "\ud800"}, "{")
    assert [one.row_id for one in found.rejected] == ["mine", "\\ud800", None]
    write_jsonl(found.rejected, tmp_path / "rejected.jsonl")
    lines = (tmp_path / "rejected.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["row_id"] == "mine"
    assert set(json.loads(lines[2])) == {"file", "line", "reason"}


def test_nan_is_no_id_and_no_category(tmp_path):
    """Ids of whole numbers with gaps are floats in pandas."""
    pq.write_table(pa.table({"question": ["q"] * 4, "answer": ["a"] * 4, "id": [1.0, float("nan"), None, 2.5],
                             "category": [float("nan"), 3.0, None, 0.5]}), tmp_path / "a.parquet")
    found = read_table(str(tmp_path / "a.parquet"), 0)
    assert [one.row_id for one in found.rows] == ["1", "row-000002", "row-000003", "2.5"]
    assert [one.category for one in found.rows] == [None, "3", None, "0.5"]
    record = '{"question": "q", "answer": "a", "id": NaN, "similarity": NaN, "rewrite": NaN}'
    assert row(tmp_path, json.loads(record)).similarity is None


@pytest.mark.parametrize(("text", "kept"), [
    ("    return x\n  y\n", "    return x\n  y"), ("\n \n    return x", "    return x"),
    ("\treturn x ", "\treturn x"), ("\r\n\r\n  a", "  a"), (" Three metres. ", "Three metres."),
    ("\u3000\n a\n", "a"),
])
def test_code_stays_indented(tmp_path, text, kept):
    found = row(tmp_path, {"question": text, "answer": text})
    assert (found.gold, found.prompt[0]["content"]) == (kept, kept)
    write_rows([found], tmp_path / "out.parquet")
    assert read_table(str(tmp_path / "out.parquet"), 0).rows == [found]


def part(text, kind="text", **more):
    return {"type": kind, "text": text, **more}


@pytest.mark.parametrize("parts", [
    [part("What"), part(" is", image_url=None)], [part("What ", "input_text"), part("is", "output_text")]])
def test_parts_that_are_text_are_joined(tmp_path, parts):
    turns = [turn(parts, "user"), turn(parts)]
    pq.write_table(pa.table({"messages": [turns]}), tmp_path / "a.parquet")
    for found in (row(tmp_path, {"messages": turns}), row(tmp_path, {"messages": json.dumps(turns)}),
                  row(tmp_path, {"prompt": turns[:1], "completion": turns[1:]}),
                  read_table(str(tmp_path / "a.parquet"), 0).rows[0]):
        assert (found.prompt[0]["content"], found.gold) == ("What is", "What is")


@pytest.mark.parametrize(("content", "reason"), [
    ([part("q"), part(None, "image")], "must be text, has a part without text (type image)"),
    ([part(None)], "must be text, has a part without text (type text)"),
    (["q"], "must be text, has a part without text (type str)"),
    ([{"type": []}], "must be text, has a part without text (type [])"),
    ({"text": "q"}, "must be text, is dict"), (5, "must be text, is int"),
    ([part("")], "is empty"), ([], "is empty"), (None, "is empty"),
])
def test_a_content_that_is_not_text_is_named_by_its_type(tmp_path, content, reason):
    for turns in ([turn(content, "user"), turn("a")], asked(turn(content))):
        assert row(tmp_path, {"messages": turns}) == f"messages: content {reason}"
