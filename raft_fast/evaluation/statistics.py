"""Means of few numbers, said with how sure they are: every mean has a 95 % interval and its n."""

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

RESAMPLES = 2000
Z_95 = 1.959964
TAILS = (2.5, 97.5)
Pair = tuple[float, float]


class Mean(TypedDict):
    """A mean, its 95 % interval (null where there is none) and the number of values in it."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


NOTHING: Mean = {"mean": None, "low": None, "high": None, "n": 0}


def weighted_mean(parts: Sequence[Pair | None], seed: int = 0) -> Mean:
    """sum(values) / sum(weights) over (value, weight) pairs, interval by bootstrap over the pairs.

    None is a row without the number; it is left out. One row alone has no interval.
    """
    known = np.array([part for part in parts if part is not None], dtype=float).reshape(-1, 2)
    if not len(known) or known[:, 1].sum() == 0:
        return dict(NOTHING)  # type: ignore[return-value]
    low, high = _interval(_ratios(known, _draws(len(known), seed)))
    return {"mean": float(known[:, 0].sum() / known[:, 1].sum()), "low": low, "high": high,
            "n": len(known)}


def share(successes: Sequence[bool]) -> Mean:
    """Share of successes with Wilson's interval, which is honest at 0 of n and n of n too."""
    n = len(successes)
    if n == 0:
        return dict(NOTHING)  # type: ignore[return-value]
    p, z2 = sum(successes) / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return {"mean": p, "low": max(0.0, centre - half), "high": min(1.0, centre + half), "n": n}


def paired_change(base: Sequence[Pair | None], trained: Sequence[Pair | None],
                  seed: int = 0) -> Mean:
    """Mean of trained minus mean of base over the rows that both have, by paired bootstrap.

    Without an interval where no row differs: a bootstrap would call that certain, which it is not.
    """
    return _paired(base, trained, np.subtract, seed)


def paired_ratio(base: Sequence[Pair | None], trained: Sequence[Pair | None], seed: int = 0) -> Mean:
    """Mean of trained as a share of the mean of base, otherwise as `paired_change`. Nothing where the
    base's is zero."""
    known = [left for left, right in zip(base, trained, strict=True) if None not in (left, right)]
    if not sum(left[0] for left in known if left):
        return dict(NOTHING)  # type: ignore[return-value]
    return _paired(base, trained, np.divide, seed)


def paired_p(base: Sequence[Pair | None], trained: Sequence[Pair | None], seed: int = 0) -> float | None:
    """Two-sided p-value of "which model gave which answer does not matter": the two values of random
    rows change places (permutation test). None where no row has both."""
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


def _paired(base: Sequence[Pair | None], trained: Sequence[Pair | None], compare: np.ufunc, seed: int
            ) -> Mean:
    """compare(mean of trained, mean of base) over the rows that both have."""
    values = _both(base, trained)
    if not len(values) or (values[:, :, 1].sum(0) == 0).any():
        return dict(NOTHING)  # type: ignore[return-value]
    left, right = values[:, 0], values[:, 1]
    everything = np.arange(len(values))[None]
    low = high = None
    if not np.array_equal(left, right):
        draws = _draws(len(values), seed)
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high = _interval(compare(_ratios(right, draws), _ratios(left, draws)))
    return {"mean": float(compare(_ratios(right, everything), _ratios(left, everything))[0]),
            "low": low, "high": high, "n": len(values)}


def _both(base: Sequence[Pair | None], trained: Sequence[Pair | None]) -> np.ndarray:
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
