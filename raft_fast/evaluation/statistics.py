"""Means over few rows with their uncertainty: 95 % intervals and permutation tests."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np

RESAMPLES = 2000
Z_95 = 1.959964
TAILS = (2.5, 97.5)
Pair = tuple[float, float]  # (value, weight) of one row
Pairs = Sequence[Pair | None]  # None: this row has no value


class Mean(TypedDict):
    """A mean, its 95 % interval (null if it has none) and the number of values."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


def weighted_mean(pairs: Pairs, seed: int = 0) -> Mean:
    """sum(values) / sum(weights), interval by bootstrap over the rows; a single row has no interval."""
    known = np.array([pair for pair in pairs if pair is not None], dtype=float).reshape(-1, 2)
    if not len(known) or known[:, 1].sum() == 0:
        return _nothing()
    low, high = _interval(_ratios(known, _draws(len(known), seed)))
    return {"mean": float(known[:, 0].sum() / known[:, 1].sum()), "low": low, "high": high, "n": len(known)}


def share(pairs: Pairs) -> Mean:
    """Successes / trials over (successes, trials) of each row, with Wilson's interval (valid at 0 and 1)."""
    known = [pair for pair in pairs if pair is not None]
    n = int(sum(trials for _, trials in known))
    if n == 0:
        return _nothing()
    p, z2 = sum(successes for successes, _ in known) / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return {"mean": p, "low": max(0.0, centre - half), "high": min(1.0, centre + half), "n": n}


def paired_change(base: Pairs, trained: Pairs, seed: int = 0) -> Mean:
    """Mean of trained minus mean of base over the rows that both have, by paired bootstrap.

    No interval where no row differs: a bootstrap would call that certain, which it is not.
    """
    values = _both(base, trained)
    if not len(values) or (values[:, :, 1].sum(0) == 0).any():
        return _nothing()

    def change(draws: np.ndarray) -> np.ndarray:
        return _ratios(values[:, 1], draws) - _ratios(values[:, 0], draws)

    low = high = None
    if not np.array_equal(values[:, 0], values[:, 1]):
        low, high = _interval(change(_draws(len(values), seed)))
    mean = float(change(np.arange(len(values))[None])[0])
    return {"mean": mean, "low": low, "high": high, "n": len(values)}


def paired_p(base: Pairs, trained: Pairs, seed: int = 0) -> float | None:
    """Two-sided p-value of a permutation test that swaps the models row by row; None if no row has both."""
    values = _both(base, trained)
    if not len(values) or (values[:, :, 1].sum(0) == 0).any():
        return None
    swaps = np.random.default_rng(seed).random((RESAMPLES, len(values))) < 0.5
    differences = values[:, 1] - values[:, 0]
    lefts = values[:, 0].sum(0) + swaps @ differences
    rights = values[:, 1].sum(0) - swaps @ differences
    with np.errstate(invalid="ignore", divide="ignore"):
        changes = rights[:, 0] / rights[:, 1] - lefts[:, 0] / lefts[:, 1]
    left, right = values.sum(0)
    change = right[0] / right[1] - left[0] / left[1]
    at_least = np.abs(changes) >= abs(change) - 1e-12 * max(1.0, abs(change))  # ties are ties
    return float((1 + at_least.sum()) / (1 + RESAMPLES))


def compare_pairs(base: Pairs, trained: Pairs, mean: Callable[[Pairs], Mean] = weighted_mean
                  ) -> dict[str, Any]:
    """One metric of evaluation.json: both means (by `mean`), the change with its interval, and p."""
    return {"base": mean(base), "trained": mean(trained), "change": paired_change(base, trained),
            "p": paired_p(base, trained)}


def _nothing() -> Mean:
    return {"mean": None, "low": None, "high": None, "n": 0}


def _both(base: Pairs, trained: Pairs) -> np.ndarray:
    """The rows that both have: [rows, 2 models, (value, weight)]."""
    both = [(left, right) for left, right in zip(base, trained, strict=True)
            if left is not None and right is not None]
    return np.array(both, dtype=float).reshape(-1, 2, 2)


def _draws(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))


def _ratios(pairs: np.ndarray, draws: np.ndarray) -> np.ndarray:
    sums = pairs[draws].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[:, 0] / sums[:, 1]


def _interval(values: np.ndarray) -> tuple[float | None, float | None]:
    finite = values[np.isfinite(values)]
    if len(finite) == 0 or np.ptp(finite) == 0:
        return None, None
    low, high = np.percentile(finite, TAILS)
    return float(low), float(high)
