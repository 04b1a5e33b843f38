"""What all gold answers together say of a rewrite: is it nearest to its own?

A rewrite that is nearer to another row's gold answer says what could have been said to another question,
however similar it is to its own.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raft_fast.data.dataset import Row
from raft_fast.data.screening import SentenceEncoder, embed_to_file, nearest
from raft_fast.refinement.checks import RETRIEVAL
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
        vectors = embed_to_file([row.gold for row in rows], encoder, folder / FILE, advance)
        return GoldIndex(vectors, encoder.device, {_digest(row.gold): at for at, row in enumerate(rows)})


@dataclass(frozen=True)
class GoldIndex:
    """All gold answers of a data set, searched on `device`. `vectors` float32 [N, D]."""

    vectors: np.ndarray
    device: str
    places: dict[bytes, int]  # by a hash of the text

    def of_texts(self, golds: Sequence[str]) -> np.ndarray:
        """The vectors of some of these gold answers, float32 [n, D]."""
        return np.array(self.vectors[[self.places[_digest(gold)] for gold in golds]])

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
