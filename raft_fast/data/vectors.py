"""Embeddings of many texts in a file, read as if they were in memory."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from raft_fast.run.durable import replacing
from raft_fast.run.files import read_json, write_json

BLOCK = 1024  # texts embedded at once


class SentenceEncoder(Protocol):
    """φ of Eq. 2. Two encoders with one `identity` make the same vectors; `device` is where it runs."""

    identity: str
    device: str

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 [len(texts), D]; zeros where there is none."""
        ...


def embed_to_file(
    texts: Callable[[], Iterable[str]], count: int, encoder: SentenceEncoder, path: Path,
    advance: Callable[[int], None] = lambda steps: None,
) -> np.ndarray:
    """The vectors of `count` texts, float32 [count, D], memory-mapped from `path` (.npy).

    `texts` gives them anew each time. A file made by the same encoder from the same texts is used as it is;
    one that cannot be read is made again.
    """
    note, key = path.with_suffix(".json"), _key(texts(), encoder)
    if (kept := _kept(path, note, key, count)) is not None:
        advance(count)
        return kept
    note.unlink(missing_ok=True)
    done = 0
    with replacing(path, "wb") as file:  # not a memory map: on a full disk, writing to one kills the process
        for block in _blocks(texts()):
            found = encoder.embed(block)
            if not done:
                np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False,
                                                            "shape": (count, found.shape[1])})
            file.write(found.astype("<f4").tobytes())
            done += len(block)
            advance(len(block))
        if not done or done != count:
            raise ValueError(f"{count} texts were promised and {done} given")
    write_json(key, note)
    return np.load(path, mmap_mode="r")


def _kept(path: Path, note: Path, key: dict[str, str], count: int) -> np.ndarray | None:
    """What an earlier run left of these vectors; None where that is not all of them."""
    try:
        if read_json(note) != key:
            return None
        vectors = np.lib.format.open_memmap(path, "r")
    except Exception:  # numpy fails at garbage in many ways, and embedding again is always right
        return None
    return vectors if vectors.ndim == 2 and len(vectors) == count and vectors.dtype == np.float32 else None


def _key(texts: Iterable[str], encoder: SentenceEncoder) -> dict[str, str]:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return {"encoder": encoder.identity, "texts": digest.hexdigest()}


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    coming = iter(texts)
    while block := list(islice(coming, BLOCK)):
        yield block
