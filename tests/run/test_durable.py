"""Files and folders that appear whole or not at all."""

import errno
import os

import pytest
from faults import calls

from raft_fast.run.config import to_yaml
from raft_fast.run.durable import check_seal, seal, write_folder
from raft_fast.run.files import write_json, write_jsonl
from raft_fast.run.options import DataOptions


def full(_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("name", "write"), [
    ("inputs.json", lambda path: write_json({"the data": "a"}, path)),
    ("metrics.jsonl", lambda path: write_jsonl([{"step": 1}], path)),
    ("config.yaml", lambda path: to_yaml([DataOptions()], path)),
])
def test_files_that_decide_about_going_on_survive_a_power_cut(tmp_path, monkeypatch, name, write):
    """The words are on disk before the name is, and the name before anything goes on."""
    with calls(tmp_path, monkeypatch) as seen:
        write(tmp_path / name)
    partial = str(tmp_path / f".partial-{name}")
    folder = str(tmp_path)
    assert seen == [("open", partial), ("fsync", partial), ("os.rename", partial), ("open", folder),
                    ("fsync", folder)]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_json({"good": 1}, tmp_path / "a.json")
    for write, record, error in ((write_json, {"x": float("nan")}, ValueError),
                                 (write_jsonl, [{"x": float("nan")}], ValueError),
                                 (write_json, {"x": object()}, TypeError)):
        with pytest.raises(error):
            write(record, tmp_path / "a.json")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json("more", tmp_path / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == '{\n  "good": 1\n}\n'


def test_folders_appear_whole_or_not_at_all(tmp_path):
    write_folder(tmp_path / "model", lambda folder: (folder / "a").write_text("1"))
    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "model", lambda folder: full((folder / "half").write_text("")))
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["model", "model/a"]


def test_a_seal_knows_every_file(tmp_path):
    file = tmp_path / "inner/a"
    file.parent.mkdir()
    file.write_text("1")
    with pytest.raises(ValueError, match="cannot be read"):
        check_seal(tmp_path)
    seal(tmp_path)
    check_seal(tmp_path)
    for change, said in ((lambda: file.write_text("2"), "checksum of inner/a"), (file.unlink, "a is miss")):
        change()
        with pytest.raises(ValueError, match=said):
            check_seal(tmp_path)
