"""What a run wrote is read back, or its file is named in one line."""

import json
from contextlib import suppress

import pyarrow.parquet as pq
import pytest
from tiny import make_rows

from raft_fast.data.dataset import read_table, write_rows
from raft_fast.distillation.checkpoint import newest_state, newest_whole
from raft_fast.distillation.metrics import cut_back, whole_lines
from raft_fast.engines.journal import Journal
from raft_fast.evaluation.during_training import _score, collapse_of
from raft_fast.refinement.outputs import keep_finished
from raft_fast.report.page import write_refine_report
from raft_fast.report.results import read_run
from raft_fast.run.durable import seal
from raft_fast.run.errors import UserError
from raft_fast.run.files import read_json, read_jsonl, read_yaml, write_json, write_jsonl, write_yaml
from raft_fast.run.folder import open_run, pin_inputs, save_costs
from raft_fast.run.options import DataOptions
from raft_fast.run.progress import Reporter

GARBAGE = [b"", b"\n", b"\x80\x81\xff\n", b"7\n", b"null\n", b'"text"\n', b"[" * 5000 + b"\n",
           bytes(64) + b"\n", b'{"a": \n', b"[1, 2]\n", b'{"a": ' * 5000 + b"1\n", b"NaN\n",
           b"9" * 5000 + b"\n"]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_one_line_that_names_the_file_and_what_to_do(tmp_path, garbage):
    path = tmp_path / "some.json"
    path.write_bytes(garbage)
    for read in (read_json, read_yaml):
        with pytest.raises(UserError, match=r"some\.json cannot be read \(.+\): mend it"):
            read(path, "mend it")
    path.write_bytes(b'{"step": 1}\n' + garbage + b'{"step": 2}\n')
    if garbage.strip():
        with pytest.raises(UserError, match=r"some\.json cannot be read \(line 2: .+\): mend it"):
            list(read_jsonl(path, "mend it", ["step"]))


@pytest.mark.parametrize(("text", "kind", "reason"), [
    ("[]", dict, "holds a list, not an object"), ("{}", list, "holds an object"), ("1", dict, "a number"),
    ('[{"a": 1}, {}]', list, "has no 'a'"), ("[1]", list, "has no 'a'"), ("", dict, "is empty"),
    ('{"b": 1}', dict, "has no 'a'"), (None, dict, "No such file")])
def test_the_reason_says_what_is_there(tmp_path, text, kind, reason):
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=reason):
        read_json(tmp_path / "x.json", "", kind, ["a"])


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0c", "å"])
def test_what_is_written_is_read_back_and_a_line_ends_at_a_newline_alone(tmp_path, mark):
    values = [{"a": f"one{mark}two", "step": 1}, {"a": mark, "step": 2}, {"a": None, "step": 3}]
    path = tmp_path / "a.jsonl"
    write_jsonl(values, path)
    assert list(read_jsonl(path, keys=["step"])) == values
    text = path.read_text(encoding="utf-8")
    path.write_text(text.rstrip("\n"), encoding="utf-8")
    assert list(read_jsonl(path)) == values
    path.write_text(text + '{"step": 4, "torn' + mark, encoding="utf-8")
    assert whole_lines(path) == values
    for write, read in ((write_json, read_json), (write_yaml, read_yaml)):
        write({"a": "\u2028 \x85 å"}, tmp_path / "a")
        assert read(tmp_path / "a") == {"a": "\u2028 \x85 å"}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_run_with_garbage_in_it_says_so(tmp_path, garbage):
    options = [DataOptions()]
    open_run(tmp_path, options)
    for name, read in (
        ("config.yaml", lambda: open_run(tmp_path, options)),
        ("inputs.json", lambda: pin_inputs(tmp_path, {"the data": "a"})),
        ("collapse.json", lambda: collapse_of(tmp_path)),
    ):
        (tmp_path / name).write_bytes(garbage)
        with pytest.raises(UserError, match=rf"{name} cannot be read \(.*\): restore it, or "):
            read()
    for name in ("metrics.jsonl", "evaluations.jsonl", "completions.jsonl"):
        (tmp_path / name).write_bytes(b'{"step": 1}\n' + garbage)
        if garbage.strip():
            with pytest.raises(UserError, match=rf"{name} cannot be read \(line 2: .*\): restore it, or "):
                cut_back(tmp_path / name, 5)


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("name", ["summary.json", "config.yaml"])
def test_finished_answers_with_garbage_beside_them_are_kept(tmp_path, name, garbage):
    for there in ("summary.json", "config.yaml", "decisions.jsonl", "refined.parquet"):
        (tmp_path / there).write_text('{"a": 1}')
    keep_finished(tmp_path, {"a": 1}, {}, "", {})
    (tmp_path / name).write_bytes(garbage)
    with pytest.raises(UserError, match=rf"{name} cannot be read \(.*\): restore it, or delete it to write"):
        keep_finished(tmp_path, {"a": 1}, {}, "", {})


def test_a_last_line_that_a_kill_has_torn_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for torn in (b'{"step": 3', b'{"step": 3}', bytes(64), b"\xc3", b""):
        path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + torn)
        assert [line["step"] for line in cut_back(path, 9)] == [1, 2]
        assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("garbage", GARBAGE)
def test_costs_that_cannot_be_read_end_no_run(tmp_path, garbage, capsys):
    (tmp_path / "phases.json").write_bytes(garbage)
    reporter = Reporter()
    with reporter.phase("train"):
        pass
    save_costs(tmp_path, reporter)
    assert "phases.json cannot be read" in capsys.readouterr().err
    assert [cost["name"] for cost in json.loads((tmp_path / "phases.json").read_text())] == ["train"]


@pytest.mark.parametrize("garbage", [*GARBAGE, b'{"a": 1}\n'])
def test_reports_name_what_they_cannot_read(tmp_path, garbage):
    names = ["evaluation.json", "phases.json", "collapse.json"]
    if garbage.strip():  # no lines are no garbage
        names += ["metrics.jsonl", "generations.jsonl"]
    for name in names:
        (tmp_path / name).write_bytes(garbage)
    assert set(read_run(tmp_path).unreadable) == set(names)
    for name in ("summary.json", "config.yaml", "screen.json", "decisions.jsonl", "runs.jsonl",
                 "rejected.jsonl"):
        (tmp_path / name).write_bytes(garbage)
    assert write_refine_report(tmp_path).is_file()


@pytest.mark.parametrize("garbage", GARBAGE)
def test_checkpoints_with_garbage_are_no_checkpoints(tmp_path, garbage, capsys):
    for step in (1, 2):
        folder = tmp_path / f"step-{step:06d}"
        folder.mkdir()
        write_json({"step": step}, folder / "state.json")
        seal(folder)
    (tmp_path / "step-000002/manifest.json").write_bytes(garbage)
    (tmp_path / "step-000002/state.json").write_bytes(garbage)
    (tmp_path / "step-000002/score.json").write_bytes(garbage)
    assert newest_whole(tmp_path).name == "step-000001"
    assert "step-000002 is damaged" in capsys.readouterr().err
    assert newest_state(tmp_path) == {"step": 1}
    assert _score(tmp_path / "step-000002") == float("inf")


@pytest.mark.parametrize("garbage", GARBAGE[1:])
def test_a_journal_with_garbage_in_it_counts_damaged_lines(tmp_path, garbage):
    (tmp_path / "journal.jsonl").write_bytes(garbage + garbage)
    with Journal(tmp_path) as journal:
        assert journal.damaged == 2


def test_rows_that_were_cut_are_one_line(tmp_path):
    path = tmp_path / "refined.parquet"
    write_rows(make_rows(), path)
    whole = path.read_bytes()
    assert pq.read_table(path).num_rows == len(make_rows())
    for kept in (0, 1, 4, 8, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(UserError, match=r"refined\.parquet: cannot be read as \.parquet"):
            read_table(str(path), 0.0)
    for at in range(4, len(whole), 37):  # some are read, as other rows; nothing else is raised
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1:])
        with suppress(UserError):
            read_table(str(path), 1.0)
