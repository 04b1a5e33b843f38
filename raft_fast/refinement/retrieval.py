"""Mutual retrieval: among all gold answers a rewrite must be nearest to its own.

A rewrite that is nearer to another row's gold answer says what could have been said to another question,
however similar it is to its own.
"""

import hashlib
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from raft_fast.data.dataset import Row
from raft_fast.data.neighbours import Index, SentenceEncoder, build_index, embed_to_file
from raft_fast.run.diskmap import DiskMap
from raft_fast.run.options import RefineOptions
from raft_fast.run.progress import Reporter

RETRIEVAL = "retrieval"
FILE = "golds.npy"
RANKS = 10  # how far down the list the own gold answer is looked for
SAME = 0.95  # gold answers this similar to the own one are no rivals
TIE = 1e-4  # what rounding, or another precision, may move a cosine


def index_golds(
    rows: Collection[Row], options: RefineOptions, encoder: SentenceEncoder, folder: Path, reporter: Reporter,
) -> "GoldIndex | None":
    """The gold answers of all rows, where the options want them told apart."""
    if RETRIEVAL in options.skip_checks:
        return None
    return GoldIndex.of(rows, encoder, folder, reporter)


@dataclass(frozen=True)
class GoldIndex:
    """All gold answers of a data set, searchable. `vectors` float32 [N, D], `index` over them."""

    vectors: np.ndarray
    index: Index
    places: DiskMap
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(
        cls, rows: Collection[Row], encoder: SentenceEncoder, folder: Path, reporter: Reporter
    ) -> "GoldIndex":
        """Embed every gold answer into `folder`/golds.npy, or use what is there already."""
        folder.mkdir(parents=True, exist_ok=True)
        with reporter.phase("embed gold answers", len(rows), "rows") as advance:
            vectors = embed_to_file(_Golds(rows), len(rows), encoder, folder / FILE, advance)
            places = DiskMap()
            for place, row in enumerate(rows):
                places[_digest(row.gold)] = place
            return cls(vectors, build_index(vectors, encoder.device), places)

    def of_texts(self, golds: Sequence[str], encoder: SentenceEncoder) -> np.ndarray:
        """The vectors of gold answers, float32 [n, D]; one that is not among these is embedded."""
        with self._turn:
            found = [self.places.get(_digest(gold)) for gold in golds]
        vectors = np.array(self.vectors[[place or 0 for place in found]])
        if missing := [at for at, place in enumerate(found) if place is None]:
            vectors[missing] = encoder.embed([golds[at] for at in missing])
        return vectors

    def objections(self, golds: np.ndarray, rewrites: np.ndarray) -> list[str | None]:
        """For each pair of unit vectors, float32 [n, D]: what is wrong, or None where no other gold
        answer is nearer to the rewrite than its own."""
        found = self.index.search(rewrites, RANKS)
        own = (golds.astype(np.float64) * rewrites).sum(-1)
        rivals = self.vectors[np.maximum(found.ids, 0)]  # [n, RANKS, D]
        alike = np.einsum("nd,nkd->nk", golds, rivals)
        nearer = (found.ids >= 0) & (found.scores > own[:, None] + TIE) & (alike < SAME)
        return [_objection(int(count)) for count in nearer.sum(1)]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _objection(nearer: int) -> str | None:
    if nearer == 0:
        return None
    rank = f"rank {nearer + 1}" if nearer < RANKS else f"rank above {RANKS}"
    return f"nearer to another row's gold answer ({rank} among all for its own)"


class _Golds(Collection[str]):
    """The gold answers of rows that are gone through more than once."""

    def __init__(self, rows: Collection[Row]) -> None:
        self.rows = rows

    def __iter__(self):  # type: ignore[no-untyped-def]
        return (row.gold for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, text: object) -> bool:
        return any(row.gold == text for row in self.rows)
