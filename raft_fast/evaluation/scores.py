"""Scores of answers and their uncertainty: 95 % intervals of means and of paired changes."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from raft_fast.data.texts import letters
from raft_fast.refinement.checks.numbers import number_set

MODELS = ("base", "trained")
# metric in evaluation.json -> is higher better?
DOMAIN = {"token_f1": True, "similarity": True, "number_f1": True, "nll": False}
GENERAL = dict.fromkeys(("strict_prompt", "strict_instruction", "loose_prompt", "loose_instruction"), True)
METRICS = {"domain": DOMAIN, "paraphrases": DOMAIN, "general": GENERAL}
WORD = re.compile(r"\w+")
RESAMPLES = 2000
Z_95 = 1.959964
Record = dict[str, Any]  # a line of generations.jsonl
Pair = tuple[float, float]  # (value, weight) of one row
Pairs = Sequence[Pair | None]  # None: this row has no value
Mean = dict[str, Any]
UNKNOWN: Mean = {"mean": None, "low": None, "high": None, "n": 0}


def bootstrap(*sides: Pairs) -> Mean:
    """{mean, low, high, n} of sum(values) / sum(weights), with a 95 % interval by resampling rows; of two
    sides (base, trained) the second minus the first, over the rows that both have.

    No mean without weights. No interval where all rows say the same: a bootstrap would call that certain."""
    values = np.array([row for row in zip(*sides, strict=True) if None not in row], dtype=float)
    values = values.reshape(-1, len(sides), 2)  # rows, sides, (value, weight)
    if (values[:, :, 1].sum(0) == 0).any():
        return UNKNOWN

    def statistic(draws: np.ndarray) -> np.ndarray:
        sums = [values[:, side][draws].sum(axis=1) for side in range(len(sides))]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = [one[:, 0] / one[:, 1] for one in sums]
        return ratios[-1] - (ratios[0] if len(sides) == 2 else 0)

    found = statistic(np.random.default_rng(0).integers(0, len(values), size=(RESAMPLES, len(values))))
    found = found[np.isfinite(found)]
    low = high = None
    if np.ptp(found) and not (len(sides) == 2 and np.array_equal(values[:, 0], values[:, 1])):
        low, high = (float(at) for at in np.percentile(found, (2.5, 97.5)))
    return {"mean": float(statistic(np.arange(len(values))[None])[0]), "low": low, "high": high,
            "n": len(values)}


def share(pairs: Pairs) -> Mean:
    """Successes / trials over (successes, trials) of each row, with Wilson's interval (valid at 0 and 1)."""
    successes, trials = (sum(one[at] for one in pairs if one is not None) for at in (0, 1))
    if not trials:
        return UNKNOWN
    p, z2 = successes / trials, Z_95**2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    return {"mean": p, "low": max(0.0, centre - half), "high": min(1.0, centre + half), "n": int(trials)}


def compare_pairs(base: Pairs, trained: Pairs, mean: Callable[..., Mean] = bootstrap) -> dict[str, Any]:
    """One metric of evaluation.json: the means of both models, and the change."""
    return {"base": mean(base), "trained": mean(trained), "change": bootstrap(base, trained)}


def compare_scores(part: str, base: Sequence[Record], trained: Sequence[Record]) -> dict[str, Any]:
    """Metrics of one part of both models and their change; how many answers failed and were truncated."""
    both = dict(zip(MODELS, (base, trained), strict=True))
    mean = share if part == "general" else bootstrap
    return {"metrics": {metric: compare_pairs(pairs(base, metric), pairs(trained, metric), mean)
                        | {"higher_is_better": better} for metric, better in METRICS[part].items()},
            "failed": {model: sum(one["error"] is not None for one in records)
                       for model, records in both.items()},
            "truncated": {model: sum(one["finish_reason"] == "length" for one in records)
                          for model, records in both.items()}}


def pairs(records: Sequence[Record], metric: str) -> list[Pair | None]:
    """(value, weight) of every record for a metric of `METRICS`; None where it has none."""
    return [_pair(record, metric) for record in records]


def _pair(record: Record, metric: str) -> Pair | None:
    if metric in GENERAL:
        kind, level = metric.split("_")
        if (followed := record[kind]) is None:
            return None
        return (float(all(followed)), 1.0) if level == "prompt" else (float(sum(followed)), len(followed))
    key, weight = ("nll_sum", record["nll_tokens"]) if metric == "nll" else (metric, 1.0)
    return None if record[key] is None else (record[key], weight)  # every gold token counts the same


def score_answer(gold: str, answer: str) -> dict[str, float | None]:
    """Token F1 (bags of words after Unicode normalisation, without case and punctuation), and F1 of the
    numbers with their units, null where the gold answer has none."""
    bags = [Counter(WORD.findall(letters(text))) for text in (gold, answer)]
    numbers = [Counter(number_set(text)) for text in (gold, answer)]
    return {"token_f1": _f1(*bags), "number_f1": _f1(*numbers) if numbers[0] else None}


def _f1(left: Counter[Any], right: Counter[Any]) -> float:
    total = left.total() + right.total()
    return 2 * (left & right).total() / total if total else 1.0
