"""What all gold answers together say of a rewrite: is it nearest to its own, and where should τ be?

A rewrite that is nearer to another row's gold answer says what could have been said to another question,
however similar it is to its own. τ is there to refuse pairs of a gold answer with another row's rewrite; the
suggested τ lets one in a hundred of them pass. Numbers and negations are the checks' business.
"""

import hashlib
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
        return [_objection(int(count)) for count in nearer.sum(1)]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _objection(nearer: int) -> str | None:
    if nearer == 0:
        return None
    rank = f"rank {nearer + 1}" if nearer < RANKS else f"rank above {RANKS}"
    return f"nearer to another row's gold answer ({rank} among all for its own)"


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
    suggested = suggest(shuffled)

    def accepted(tau: float) -> dict[str, float]:
        return {"true": round(float((true >= tau).mean()), 4),
                "shuffled": round(float((shuffled >= tau).mean()), 4)}

    return {
        "n": {"true": len(true), "shuffled": len(shuffled)},
        "edges": EDGES.tolist(),
        "true": _histogram(true), "shuffled": _histogram(shuffled),
        "auc": round(auc(true, shuffled), 4),
        "false_accepts": FALSE_ACCEPTS,
        "suggested_tau": suggested,
        "accepted": {"at_tau": accepted(tau),
                     "at_suggested_tau": None if suggested is None else accepted(suggested)},
    }


def suggest(shuffled: np.ndarray) -> float | None:
    """The smallest τ, to two decimals, that at most one in a hundred shuffled pairs reaches; None above 1."""
    at_least = float(np.quantile(shuffled, 1 - FALSE_ACCEPTS))
    tau = np.ceil(at_least * 100) / 100
    while (shuffled >= tau).mean() > FALSE_ACCEPTS:
        tau += 0.01
    return None if tau > 1 + 1e-9 else round(float(tau), 2)


def auc(true: np.ndarray, shuffled: np.ndarray) -> float:
    """P(true > shuffled) + P(equal) / 2, over all pairs of one with the other."""
    ordered = np.sort(shuffled)
    below = np.searchsorted(ordered, true, "left")
    up_to = np.searchsorted(ordered, true, "right")
    return float((below + up_to).sum() / 2 / len(true) / len(shuffled))


def _sample(lines: Iterable[Record]) -> list[Record]:
    """The PAIRS usable lines with the smallest hashes, in the hashes' order; never many more in memory."""
    kept: list[tuple[str, Record]] = []
    for line in lines:
        if line.get("similarity") is None or line["checks"].get("copy") is not None:
            continue
        key = hashlib.sha256(line["row_id"].encode()).hexdigest()
        kept.append((key, {"gold": line["gold"], "rewrite": line["rewrite"]}))
        if len(kept) > 2 * PAIRS:
            kept = sorted(kept, key=lambda one: one[0])[:PAIRS]
    return [line for _, line in sorted(kept, key=lambda one: one[0])[:PAIRS]]


def _histogram(values: np.ndarray) -> list[int]:
    return np.histogram(np.clip(values, -1, 1), EDGES)[0].tolist()
