"""What rows ask: which of them ask in the same words, and where each question lies among the others."""

import hashlib
from array import array
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raft_fast.data.dataset import Row, at
from raft_fast.data.screening.words import same_key
from raft_fast.data.vectors import SentenceEncoder, embed_to_file
from raft_fast.run.diskmap import DiskMap


@dataclass(frozen=True)
class Questions:
    """The different questions of N rows, numbered as they first come.

    `number` [N] says which of the U questions a row asks; `vectors` float32 [U, D], memory-mapped;
    `longest`: characters of the longest one.
    """

    number: "array[int]"
    vectors: np.ndarray
    longest: int

    @classmethod
    def of(cls, rows: Collection[Row], encoder: SentenceEncoder, path: Path,
           advance: Callable[[int], None]) -> "Questions":
        """Number and embed the questions; their vectors go to `path`, or are used from there."""
        seen, number, first, longest = DiskMap(), array("q"), array("q"), 0
        for place, row in enumerate(rows):
            longest = max(longest, len(question(row)))
            key = hashlib.sha256(same_key(question(row)).encode("utf-8", "surrogatepass")).digest()
            known = seen.get(key)
            if known is None:
                known = len(first)
                seen[key] = known
                first.append(place)
            number.append(known)
        seen.close()
        vectors = embed_to_file(lambda: map(question, at(rows, first)), len(first), encoder, path, advance)
        advance(len(number) - len(first))
        return cls(number, vectors, longest)


def question(row: Row) -> str:
    """What is asked: the conversation without the system's turn, which many rows share."""
    return "\n".join(turn["content"] for turn in row.prompt if turn["role"] != "system")
