"""Embeddings of many texts in a file, read as if they were in memory."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

BLOCK = 1024  # texts embedded at once


class SentenceEncoder(Protocol):
    """φ of Eq. 2. Two encoders with one `identity` make the same vectors; `device` is where it runs."""

    identity: str
    device: str

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 [len(texts), D]; zeros where there is none."""
        ...


def embed_to_file(
    texts: Iterable[str], count: int, encoder: SentenceEncoder, path: Path,
    advance: Callable[[int], None] = lambda steps: None,
) -> np.ndarray:
    """The vectors of `count` texts, float32 [count, D], memory-mapped from `path` (.npy).

    `texts` is gone through twice. A file made by the same encoder from the same texts is used as it is.
    """
    note, key = path.with_suffix(".json"), _key(texts, encoder)
    if path.is_file() and note.is_file() and json.loads(note.read_text(encoding="utf-8")) == key:
        advance(count)
        return np.load(path, mmap_mode="r")
    note.unlink(missing_ok=True)
    partial = path.with_suffix(".partial")
    done, vectors = 0, None
    for block in _blocks(texts):
        found = encoder.embed(block)
        if vectors is None:
            vectors = np.lib.format.open_memmap(partial, "w+", np.float32, (count, found.shape[1]))
        vectors[done : done + len(block)] = found
        done += len(block)
        advance(len(block))
    if vectors is None or done != count:
        raise ValueError(f"{count} texts were promised and {done} given")
    vectors.flush()
    del vectors
    partial.replace(path)
    note.write_text(json.dumps(key), encoding="utf-8")
    return np.load(path, mmap_mode="r")


def _key(texts: Iterable[str], encoder: SentenceEncoder) -> dict[str, str]:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return {"encoder": encoder.identity, "texts": digest.hexdigest()}


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    coming = iter(texts)
    while block := list(islice(coming, BLOCK)):
        yield block
