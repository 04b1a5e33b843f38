"""What all gold answers together say of a rewrite: is it nearest to its own, and where should τ be?

A rewrite that is nearer to another row's gold answer says what could have been said to another question,
however similar it is to its own. τ is there to refuse pairs of a gold answer with another row's rewrite; the
suggested τ lets one in a hundred of them pass. Numbers and negations are the checks' business.
"""

import hashlib
import heapq
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
PAIRS = 500  # rows drawn by a hash of their row_id: the same for any order, run or split into shards
FALSE_ACCEPTS = 0.01
EDGES = np.round(np.linspace(-1, 1, 81), 3)
FEWEST = 8  # rows; from fewer no share of a hundredth can be told

Record = dict[str, Any]


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


def calibrate(lines: Iterable[Record], encoder: SentenceEncoder, tau: float) -> Record | None:
    """The `calibration` of summary.json from lines of decisions.jsonl; None for fewer than 8 rows.

    `true`: rewrites with their own gold answer. `shuffled`: each with all other gold answers of the
    sample. Copies, and replies without a similarity, are left out. `auc` is the chance that a true pair
    is more similar than a shuffled one.
    """
    sample = _sample(lines)
    if len(sample) < FEWEST:
        return None
    golds, rewrites = (encoder.embed([line[name] for line in sample]).astype(np.float64)
                       for name in ("gold", "rewrite"))
    scores, texts = golds @ rewrites.T, np.array([line["gold"] for line in sample])
    true, shuffled = np.diag(scores), scores[(texts[:, None] != texts) & (golds @ golds.T < SAME)]
    if not len(shuffled):
        return None
    suggested, ordered = suggest(shuffled), np.sort(shuffled)
    below, up_to = (np.searchsorted(ordered, true, side) for side in ("left", "right"))

    def accepted(tau: float) -> dict[str, float]:
        return {name: round(float((pairs >= tau).mean()), 4)
                for name, pairs in (("true", true), ("shuffled", shuffled))}

    return {
        "n": {"true": len(true), "shuffled": len(shuffled)},
        "edges": EDGES.tolist(),
        **{name: np.histogram(np.clip(pairs, -1, 1), EDGES)[0].tolist()
           for name, pairs in (("true", true), ("shuffled", shuffled))},
        "auc": round(float((below + up_to).sum() / 2 / len(true) / len(shuffled)), 4),
        "false_accepts": FALSE_ACCEPTS,
        "suggested_tau": suggested,
        "accepted": {"at_tau": accepted(tau),
                     "at_suggested_tau": None if suggested is None else accepted(suggested)},
    }


def suggest(shuffled: np.ndarray) -> float | None:
    """The smallest τ, to two decimals, that at most one in a hundred shuffled pairs reaches; None above 1."""
    tau = np.ceil(float(np.quantile(shuffled, 1 - FALSE_ACCEPTS)) * 100) / 100
    while (shuffled >= tau).mean() > FALSE_ACCEPTS:
        tau += 0.01
    return None if tau > 1 + 1e-9 else round(float(tau), 2)


def _sample(lines: Iterable[Record]) -> list[Record]:
    """The PAIRS usable lines with the smallest hashes, in the hashes' order."""
    usable = ((hashlib.sha256(line["row_id"].encode()).hexdigest(), line["gold"], line["rewrite"])
              for line in lines if line.get("similarity") is not None and line["checks"].get("copy") is None)
    return [{"gold": gold, "rewrite": rewrite} for _, gold, rewrite in heapq.nsmallest(PAIRS, usable)]
