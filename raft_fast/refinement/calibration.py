"""Where to put τ: the similarity of rewrites to their own gold answers against that to others'.

Pairs of a gold answer with another row's rewrite are what τ is there to refuse. The suggested τ lets
one in a hundred of them pass: below it the filter can hardly tell answers to different questions
apart. It says nothing about numbers or negations, for which there are checks.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from raft_fast.data.neighbours import SentenceEncoder
from raft_fast.refinement.outputs import DECISIONS, SUMMARY
from raft_fast.refinement.retrieval import SAME
from raft_fast.run.files import read_json, read_jsonl, write_json

PAIRS = 500  # rows drawn by a hash of their row_id: the same for any order, run or split into shards
FALSE_ACCEPTS = 0.01
EDGES = np.round(np.linspace(-1, 1, 81), 3)
FEWEST = 8  # rows; from fewer no share of a hundredth can be told


def calibrate(lines: Iterable[dict[str, Any]], encoder: SentenceEncoder, tau: float) -> dict[str, Any] | None:
    """The `calibration` of summary.json from lines of decisions.jsonl; None for fewer than 8 rows.

    `true`: rewrites with their own gold answer. `shuffled`: each with all other gold answers of the
    sample. Copies, and replies without a similarity, are left out. `auc` is the chance that a true pair
    is more similar than a shuffled one.
    """
    sample = _sample(lines)
    if len(sample) < FEWEST:
        return None
    golds, rewrites = (encoder.embed([line[name] for line in sample]) for name in ("gold", "rewrite"))
    scores = golds.astype(np.float64) @ rewrites.T.astype(np.float64)
    texts, wide = np.array([line["gold"] for line in sample]), golds.astype(np.float64)
    # gold answers that say the same are no other answer
    other = (texts[:, None] != texts[None, :]) & (wide @ wide.T < SAME)
    true, shuffled = np.diag(scores), scores[other]
    if not len(shuffled):
        return None
    suggested = suggest(shuffled)
    return {
        "n": {"true": len(true), "shuffled": len(shuffled)},
        "edges": EDGES.tolist(),
        "true": _histogram(true), "shuffled": _histogram(shuffled),
        "auc": round(auc(true, shuffled), 4),
        "false_accepts": FALSE_ACCEPTS,
        "suggested_tau": suggested,
        "accepted": {"at_tau": _accepted(tau, true, shuffled),
                     "at_suggested_tau": None if suggested is None else _accepted(suggested, true, shuffled)},
    }


def add_calibration(folder: Path, encoder: SentenceEncoder) -> dict[str, Any]:
    """Calibrate on the decisions in the folder and write it into its summary.json; returns the summary.

    Apart from refining, because shards are calibrated together, once they are joined.
    """
    fix = "run the same command again"
    summary: dict[str, Any] = read_json(folder / SUMMARY, fix, keys=["tau"])
    summary["calibration"] = calibrate(read_jsonl(folder / DECISIONS, fix), encoder, summary["tau"])
    write_json(summary, folder / SUMMARY)
    return summary


def suggest(shuffled: np.ndarray) -> float | None:
    """The smallest τ, to two decimals, that at most one in a hundred shuffled pairs reaches; None where
    that would be above 1."""
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


def _sample(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The PAIRS usable lines with the smallest hashes, in the hashes' order; never many more in memory."""
    kept: list[tuple[str, dict[str, Any]]] = []
    for line in lines:
        if line["similarity"] is None or line["checks"].get("copy") is not None:
            continue
        key = hashlib.sha256(line["row_id"].encode()).hexdigest()
        kept.append((key, {"gold": line["gold"], "rewrite": line["rewrite"]}))
        if len(kept) > 2 * PAIRS:
            kept = _smallest(kept)
    return [line for _, line in _smallest(kept)]


def _smallest(kept: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    return sorted(kept, key=lambda one: one[0])[:PAIRS]


def _histogram(values: np.ndarray) -> list[int]:
    return np.histogram(np.clip(values, -1, 1), EDGES)[0].tolist()


def _accepted(tau: float, true: np.ndarray, shuffled: np.ndarray) -> dict[str, float]:
    return {"true": round(float((true >= tau).mean()), 4),
            "shuffled": round(float((shuffled >= tau).mean()), 4)}
