"""Folders that appear whole or not at all."""

import errno

import pytest

from raft_fast.durable import check_seal, seal, write_folder


def test_folders_appear_whole_or_not_at_all(tmp_path):
    def fail(folder):
        (folder / "half").write_text("")
        raise OSError(errno.ENOSPC, "No space left on device")

    write_folder(tmp_path / "model", lambda folder: (folder / "a").write_text("1"))
    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "model", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["a"]


def test_a_seal_knows_every_file(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/a").write_text("1")
    with pytest.raises(ValueError, match="cannot be read"):
        check_seal(tmp_path)
    seal(tmp_path)
    check_seal(tmp_path)
    (tmp_path / "inner/a").write_text("2")
    with pytest.raises(ValueError, match=r"checksum of inner/a"):
        check_seal(tmp_path)
    (tmp_path / "inner/a").unlink()
    with pytest.raises(ValueError, match=r"inner/a is missing"):
        check_seal(tmp_path)
