"""What all gold answers together say of a rewrite: is it nearest to its own?

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
from raft_fast.data.screening import SentenceEncoder, embed_to_file, nearest
from raft_fast.refinement.checks import RETRIEVAL
from raft_fast.run.files import DiskMap
from raft_fast.run.options import RefineOptions
from raft_fast.run.progress import Reporter

FILE = "golds.npy"
RANKS = 10  # how far down the list the own gold answer is looked for
SAME = 0.95  # gold answers this similar say the same: they are no rivals
TIE = 1e-4  # what rounding, or another precision, may move a cosine


def index_golds(
    rows: Collection[Row], options: RefineOptions, encoder: SentenceEncoder, folder: Path, reporter: Reporter,
) -> "GoldIndex | None":
    """The gold answers of all rows, embedded into `folder`/golds.npy unless they are there already; None if
    the check `retrieval` is skipped."""
    if RETRIEVAL in options.skip_checks:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    with reporter.phase("embed gold answers", len(rows), "rows") as advance:
        vectors = embed_to_file(lambda: (row.gold for row in rows), len(rows), encoder, folder / FILE,
                                advance)
        places = DiskMap()
        for place, row in enumerate(rows):
            places[_digest(row.gold)] = place
        return GoldIndex(vectors, encoder.device, places)


@dataclass(frozen=True)
class GoldIndex:
    """All gold answers of a data set, searched on `device`. `vectors` float32 [N, D]."""

    vectors: np.ndarray
    device: str
    places: DiskMap
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def of_texts(self, golds: Sequence[str], encoder: SentenceEncoder) -> np.ndarray:
        """The vectors of gold answers, float32 [n, D]; one that is not among these is embedded."""
        with self._turn:
            found = [self.places.get(_digest(gold)) for gold in golds]
        vectors = np.array(self.vectors[[place or 0 for place in found]])
        if missing := [at for at, place in enumerate(found) if place is None]:
            vectors[missing] = encoder.embed([golds[at] for at in missing])
        return vectors

    def objections(self, golds: np.ndarray, rewrites: np.ndarray) -> list[str | None]:
        """For each pair of unit vectors, float32 [n, D]: what is wrong; None if no other gold answer is
        nearer to the rewrite than its own."""
        scores, ids = nearest(rewrites, self.vectors, RANKS, self.device)
        own = (golds.astype(np.float64) * rewrites).sum(-1)
        rivals = self.vectors[ids]  # [n, RANKS, D]
        alike = np.einsum("nd,nkd->nk", golds, rivals)
        nearer = (scores > own[:, None] + TIE) & (alike < SAME)
        ranks = [f"rank {count + 1}" if count < RANKS else f"rank above {RANKS}" for count in nearer.sum(1)]
        return [f"nearer to another row's gold answer ({rank} among all for its own)" if rivals else None
                for rank, rivals in zip(ranks, nearer.any(1), strict=True)]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
