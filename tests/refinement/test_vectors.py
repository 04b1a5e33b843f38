"""Vectors on disk are those of their texts, whatever an earlier run has left there."""

import errno
from contextlib import suppress

import numpy as np
import pytest
from faults import calls, fault
from refinement_stubs import StubEncoder

from raft_fast.data.neighbours import embed_to_file

TEXTS = ["one", "two", "three"]


class Counting(StubEncoder):
    """Vectors that differ; remembers how many texts it was given."""

    def __init__(self):
        super().__init__({"one": 0.1, "two": 0.5})
        self.texts = 0

    def embed(self, texts):
        self.texts += len(texts)
        return super().embed(texts)


def embed(folder, encoder=None):
    return embed_to_file(lambda: TEXTS, len(TEXTS), encoder or Counting(), folder / "golds.npy")


GARBAGE = {"empty": b"", "cut": None, "binary": b"\x80\x81\xff", "list": b"[1]", "number": b"7",
           "deep": b"[" * 5000, "object": b"{}", "zeros": bytes(64), "null": b"null",
           "zip": b"PK\x03\x04" + bytes(40), "pickle": b"\x80\x04]\x94."}


@pytest.mark.parametrize("name", ["golds.json", "golds.npy"])
@pytest.mark.parametrize("kind", GARBAGE)
def test_vectors_that_cannot_be_read_are_made_again(tmp_path, name, kind):
    before, path = np.array(embed(tmp_path)), tmp_path / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3] if GARBAGE[kind] is None else GARBAGE[kind])
    encoder = Counting()
    assert (np.array(embed(tmp_path, encoder)) == before).all()
    assert encoder.texts == len(TEXTS)
    assert path.read_bytes() == whole
    embed(tmp_path, encoder)
    assert encoder.texts == len(TEXTS)  # and kept then


def test_vectors_of_another_shape_are_made_again(tmp_path):
    before = np.array(embed(tmp_path))
    for other in (before[:2], before.astype(np.float64), before[0], before.astype("S4")):
        np.save(tmp_path / "golds.npy", other)
        assert (np.array(embed(tmp_path)) == before).all()


def test_a_disk_that_was_full_at_any_moment_spoils_no_vectors(tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    with calls(tmp_path / "whole", monkeypatch) as seen:
        before = np.array(embed(tmp_path / "whole"))
    assert len(seen) > 8
    for at, call in enumerate(seen):
        folder = tmp_path / str(at)
        folder.mkdir()
        full = OSError(errno.ENOSPC, "No space left on device")
        with suppress(OSError), fault(folder, monkeypatch, at, full):
            embed(folder)
        assert not list(folder.glob(".partial*"))  # what is half written takes no room
        assert (np.array(embed(folder)) == before).all(), call
        assert {path.name for path in folder.iterdir()} == {"golds.npy", "golds.json"}
