"""Methods in one plane, with how sure each comparison is: bootstrap over rows and seeds.

Both axes are changes from the base on the rows that both have, so that the base is the origin in every
resample.
A spot is a method at a learning rate and a step, averaged over its seeds. Rows are drawn once for all
methods and seeds are too: everything stays paired. With one seed the intervals know nothing of seeds, and
with three too little.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.quality.frontier import (
    Frontier,
    Point,
    common_losses,
    common_scores,
    frontier,
    loss_at,
    mean_score,
    score_at,
)
from benchmarks.quality.measures import MEASURES, Measured
from raft_fast.evaluation.statistics import Pair

RESAMPLES = 1000
ENOUGH = 0.9  # of the resamples must know an answer before an interval is given
FRACTIONS = (0.25, 0.5, 0.75)  # of the range that two frontiers share
TAILS = (2.5, 97.5)
Spot = tuple[str, float, int]
Stat = dict[str, float | None]


class Plane:
    """Changes from the base of every spot, [1 + RESAMPLES, spots]; row 0 is what was measured."""

    def __init__(self, base: Measured, points: Sequence[Measured], score: str, loss: str,
                 seed: int = 0) -> None:
        """`score` and `loss` are names of measures that every point has."""
        self.spots: list[Spot] = sorted({(one.method, one.learning_rate, one.step) for one in points})
        self.seeds = sorted({one.seed for one in points})
        self._seeds_of = Counter((one.method, one.learning_rate, one.step) for one in points)
        generator = np.random.default_rng(seed)
        seeds = _counts(generator, len(self.seeds))
        parts = {name.split(".")[0]: _counts(generator, len(base.values[name])) for name in (score, loss)}
        self.score = self._by_spot(base, points, score, parts, seeds)
        self.loss = -self._by_spot(base, points, loss, parts, seeds)
        self._drawn: dict[str, list[Frontier]] = {}

    def methods(self) -> list[str]:
        return list(dict.fromkeys(method for method, _, _ in self.spots))

    def least_seeds(self, method: str) -> int:
        """Seeds of the method's spot that has the fewest."""
        return min(count for spot, count in self._seeds_of.items() if spot[0] == method)

    def points(self, method: str, draw: int = 0) -> list[Point]:
        """The method's spots in one resample; what a resample cannot tell is left out."""
        places = [place for place, spot in enumerate(self.spots) if spot[0] == method]
        found = [Point(float(self.loss[draw, place]), float(self.score[draw, place])) for place in places]
        return [point for point in found if np.isfinite(point).all()]

    def frontier(self, method: str, draw: int = 0) -> Frontier:
        """The hull of the method's spots."""
        return frontier(self.points(method, draw))

    def compare(self, method: str, rival: str) -> dict[str, Any]:
        """Method minus rival: domain score at equal general loss and mean over the common range (more is
        better), general loss at equal domain score (less is better)."""
        pairs = list(zip(self._frontiers(method), self._frontiers(rival), strict=True))
        losses, scores = common_losses(*pairs[0]), common_scores(*pairs[0])

        def stat(ask: Callable[[Frontier, Frontier], float | None]) -> Stat:
            return _stat([ask(*pair) for pair in pairs])

        return {
            "method": method, "rival": rival,
            "losses": losses, "scores": scores,
            "mean_score": stat(_mean_score_change),
            "score_at": [{"loss": at, **stat(lambda ours, theirs, at=at: _minus(  # type: ignore[misc]
                score_at(ours, at), score_at(theirs, at)))} for at in _grid(losses)],
            "loss_at": [{"score": at, **stat(lambda ours, theirs, at=at: _minus(  # type: ignore[misc]
                loss_at(ours, at), loss_at(theirs, at)))} for at in _grid(scores)],
        }

    def _frontiers(self, method: str) -> list[Frontier]:
        """The method's frontier in every resample; a rival's is asked for many times."""
        if method not in self._drawn:
            self._drawn[method] = [self.frontier(method, draw) for draw in range(len(self.score))]
        return self._drawn[method]

    def _by_spot(self, base: Measured, points: Sequence[Measured], measure: str,
                 parts: dict[str, np.ndarray], seeds: np.ndarray) -> np.ndarray:
        """Change from the base, more is better: the mean over the drawn seeds.

        A spot none of whose seeds were drawn counts with all it has: a grid in the making has spots with
        fewer seeds, and without them whole frontiers would end elsewhere.
        """
        sign = 1 if MEASURES[measure].more_is_better else -1
        rows = parts[measure.split(".")[0]]
        places = [self.spots.index((one.method, one.learning_rate, one.step)) for one in points]
        drawn = [seeds[:, self.seeds.index(one.seed)] for one in points]
        reached = np.zeros((len(rows), len(self.spots)))
        for place, times in zip(places, drawn, strict=True):
            reached[:, place] += times
        total, weight = np.zeros_like(reached), np.zeros_like(reached)
        for one, place, times in zip(points, places, drawn, strict=True):
            times = times + (reached[:, place] == 0)
            change = sign * _change(base.values[measure], one.values[measure], rows)
            total[:, place] += np.where(times > 0, times * change, 0)
            weight[:, place] += times
        return total / weight


def _counts(generator: np.random.Generator, size: int) -> np.ndarray:
    """How often each of `size` things is drawn, [1 + RESAMPLES, size]; row 0 has each once."""
    draws = generator.multinomial(size, np.full(size, 1 / size), RESAMPLES)
    return np.concatenate([np.ones((1, size), dtype=draws.dtype), draws])


def _change(base: Sequence[Pair | None], trained: Sequence[Pair | None], counts: np.ndarray) -> np.ndarray:
    """Trained minus base in every resample. A row that either lacks counts on neither side, as in
    `paired_change`: else the rows that are left out of one side would be the change."""
    kept = [(0.0, 0.0, 0.0, 0.0) if left is None or right is None else (*left, *right)
            for left, right in zip(base, trained, strict=True)]
    pairs = np.array(kept)
    return _ratios(pairs[:, 2:], counts) - _ratios(pairs[:, :2], counts)


def _ratios(pairs: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """sum(values) / sum(weights) in every resample."""
    sums = counts @ pairs
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[:, 0] / sums[:, 1]


def _mean_score_change(ours: Frontier, theirs: Frontier) -> float | None:
    span = common_losses(ours, theirs)
    return None if span is None else _minus(mean_score(ours, span), mean_score(theirs, span))


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _grid(span: tuple[float, float] | None) -> list[float]:
    return [] if span is None else [span[0] + share * (span[1] - span[0]) for share in FRACTIONS]


def _stat(values: Sequence[float | None]) -> Stat:
    """The first value with the 95 % interval of the others and a two-sided bootstrap p; no interval
    where too many resamples cannot tell."""
    drawn = np.array([value for value in values[1:] if value is not None])
    known: Stat = {"mean": values[0], "low": None, "high": None, "p": None}
    if values[0] is None or len(drawn) < ENOUGH * (len(values) - 1) or np.ptp(drawn) == 0:
        return known
    low, high = np.percentile(drawn, TAILS)
    tail = min((drawn <= 0).mean(), (drawn >= 0).mean())
    return known | {"low": float(low), "high": float(high),
                    "p": float(min(1.0, max(2 * tail, 1 / len(drawn))))}
