"""Files and folders appear whole or not at all; one line names the file that cannot be read back."""

import errno
import os

import pytest
import yaml
from faults import calls

from raft_fast.distillation.callbacks import cut_back
from raft_fast.refinement.outputs import keep_finished
from raft_fast.report.page import write_refine_report
from raft_fast.report.results import read_run
from raft_fast.run.errors import UserError
from raft_fast.run.files import (
    check_seal,
    read_json,
    read_jsonl,
    read_yaml,
    seal,
    write_folder,
    write_json,
    write_jsonl,
    write_yaml,
)
from raft_fast.run.folder import open_run, pin_inputs, save_costs
from raft_fast.run.options import DataOptions
from raft_fast.run.progress import Reporter

GARBAGE = [b"", b"\x80\x81\xff\n", b"null\n", b"[" * 5000 + b"\n", bytes(64) + b"\n", b'{"a": \n',
           b"[1, 2]\n", b"9" * 5000 + b"\n"]


def full(_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("write", [write_json, write_yaml, lambda value, path: write_jsonl([value], path)])
def test_a_file_is_written_whole_or_the_old_one_stays(tmp_path, monkeypatch, write):
    """The words are on disk before the name is, and the name before anything goes on."""
    with calls(tmp_path, monkeypatch) as seen:
        write({"step": 1}, tmp_path / "a")
    partial, folder = str(tmp_path / ".partial-a"), str(tmp_path)
    assert seen == [("open", partial), ("fsync", partial), ("os.rename", partial), ("open", folder),
                    ("fsync", folder)]
    before = (tmp_path / "a").read_text()
    for record in ({"x": float("nan")}, {"x": object()}) if write is not write_yaml else ({"x": object()},):
        with pytest.raises((ValueError, TypeError, yaml.YAMLError)):
            write(record, tmp_path / "a")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write({"step": 2}, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == before


def test_folders_appear_whole_or_not_at_all_and_a_seal_knows_every_file(tmp_path):
    def fill(folder):
        (folder / "inner").mkdir()
        (folder / "inner/a").write_text("1")
        seal(folder)

    write_folder(tmp_path / "model", fill)
    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "model", lambda folder: full((folder / "half").write_text("")))
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["model", "inner", "a", "manifest.json"]
    check_seal(tmp_path / "model")
    file = tmp_path / "model/inner/a"
    for change, said in ((lambda: file.write_text("2"), "checksum of inner/a"), (file.unlink, "a is missing"),
                         ((tmp_path / "model/manifest.json").unlink, "manifest.json cannot be read")):
        change()
        with pytest.raises(ValueError, match=said):
            check_seal(tmp_path / "model")


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_one_line_that_names_the_file_and_what_to_do(tmp_path, garbage, capsys):
    """Whatever reads it: a run, its reports, finished answers."""
    path = tmp_path / "some.json"
    path.write_bytes(garbage)
    for read, given in ((read_json, []), (read_json, [list, ["key"]]), (read_yaml, [])):
        with pytest.raises(UserError, match=r"some\.json cannot be read \(.+\): fix it"):
            read(path, "fix it", *given)
    path.write_bytes(b'{"step": 1}\n' + garbage + b'{"step": 2}\n')
    run = tmp_path / "run"
    open_run(run, [DataOptions()])
    for name, read in (("config.yaml", lambda: open_run(run, [DataOptions()])),
                       ("inputs.json", lambda: pin_inputs(run, {"the data": "a"}))):
        (run / name).write_bytes(garbage)
        with pytest.raises(UserError, match=rf"{name} cannot be read \(.*\): restore it, or "):
            read()
    names = ["config.yaml", "evaluation.json", "phases.json"]
    if garbage.strip():  # no lines are no garbage
        with pytest.raises(UserError, match=r"some\.json cannot be read \(line 2: .+\): fix it"):
            list(read_jsonl(path, "fix it", ["step"]))
        (run / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + garbage)
        with pytest.raises(UserError, match=r"metrics.jsonl cannot be read \(line 2: .*\): restore it, or "):
            cut_back(run / "metrics.jsonl", 5)
        names += ["metrics.jsonl", "generations.jsonl"]
    for name in names:
        (run / name).write_bytes(garbage)
    assert set(read_run(run).unreadable) == set(names)
    save_costs(run, Reporter([("train", 2.0, 5)]))  # no reason to end a run
    assert "phases.json cannot be read" in capsys.readouterr().err
    assert read_json(run / "phases.json", kind=list)[0]["name"] == "train"
    for name in ("summary.json", "config.yaml", "screen.json", "decisions.jsonl", "rejected.jsonl"):
        (run / name).write_bytes(garbage)
    assert write_refine_report(run).is_file()
    for there in ("summary.json", "config.yaml", "decisions.jsonl", "refined.parquet"):
        (tmp_path / there).write_text('{"a": 1}')
    (tmp_path / "summary.json").write_bytes(garbage)
    with pytest.raises(UserError, match=r"summary.json cannot be read \(.*\): restore it, or delete"):
        keep_finished(tmp_path, {})


def test_what_is_written_is_read_back_and_a_line_ends_at_a_newline_alone(tmp_path):
    mark, path = "\u2028 \x85 \x0c å", tmp_path / "a.jsonl"
    values = [{"a": f"one{mark}two", "step": 1}, {"a": None, "step": 2}]
    write_jsonl(values, path)
    whole = path.read_bytes()
    path.write_bytes(whole.rstrip(b"\n"))
    assert list(read_jsonl(path, keys=["step"])) == values
    for torn in (b'{"step": 3', b'{"step": 3}', bytes(64), b"\xc3", b""):  # a last line that a kill has cut
        path.write_bytes(whole + torn)
        assert cut_back(path, 9) == values
        assert path.read_bytes() == whole
    for write, read in ((write_json, read_json), (write_yaml, read_yaml)):
        write({"a": mark}, tmp_path / "a")
        assert read(tmp_path / "a") == {"a": mark}
