"""Frontiers of methods in the plane of general loss (x, less is better) and domain score (y, more is
better), and the bootstrap over rows and seeds that says how sure a comparison of two of them is.

A method that learns less also forgets less, so single points say nothing. A method's frontier is the upper
concave hull of all its points (learning rates, checkpoints), from the least loss to the best score. Points
below a line between two others are left out, so another point never lowers a frontier: a method that is
tried more often must not look worse. Between neighbours it is interpolated; beyond its ends it is unknown,
and everything asked there is None. The base is not a point of any frontier: a straight line from there to a
method's first point is not a measurement, and would belittle methods tried at few rates.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.quality.points import MEASURES, Measured
from raft_fast.evaluation.scores import Pair

RESAMPLES = 1000
ENOUGH = 0.9  # of the resamples must have an answer before an interval is given
FRACTIONS = (0.25, 0.5, 0.75)  # of the range that two frontiers share
TAILS = (2.5, 97.5)
Spot = tuple[str, float, int]
Stat = dict[str, float | None]
Span = tuple[float, float]


class Point(NamedTuple):
    """What a model lost in general and scores in the domain."""

    loss: float
    score: float


Frontier = list[Point]


def frontier(points: Sequence[Point]) -> Frontier:
    """The hull's points by rising loss: their scores rise too, less and less steeply."""
    hull: Frontier = []
    for point in sorted(points, key=lambda one: (one.loss, -one.score)):
        if hull and point.score <= hull[-1].score:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(left: Point, right: Point) -> float:
    return (right.score - left.score) / (right.loss - left.loss)


def score_at(front: Frontier, loss: float) -> float | None:
    """The domain score at a general loss."""
    return _interpolate([(point.loss, point.score) for point in front], loss)


def loss_at(front: Frontier, score: float) -> float | None:
    """The general loss that a domain score costs."""
    return _interpolate([(point.score, point.loss) for point in front], score)


def mean_score(front: Frontier, span: Span) -> float | None:
    """Mean domain score over `span`, by the area under the frontier; over a span of no width the score
    there."""
    low, high = span
    first, last = score_at(front, low), score_at(front, high)
    if high < low or first is None or last is None:
        return None
    if high == low:
        return first
    path = [(low, first), *(point for point in front if low < point.loss < high), (high, last)]
    return sum((right[0] - left[0]) * (left[1] + right[1]) / 2
               for left, right in itertools.pairwise(path)) / (high - low)


def common_losses(left: Frontier, right: Frontier) -> Span | None:
    """The general losses that both frontiers reach."""
    return _common([point.loss for point in left], [point.loss for point in right])


def common_scores(left: Frontier, right: Frontier) -> Span | None:
    """The domain scores that both frontiers reach."""
    return _common([point.score for point in left], [point.score for point in right])


def _common(left: list[float], right: list[float]) -> Span | None:
    if not left or not right:
        return None
    low, high = max(left[0], right[0]), min(left[-1], right[-1])
    return (low, high) if low <= high else None


def _interpolate(line: list[tuple[float, float]], x: float) -> float | None:
    if not line or not line[0][0] <= x <= line[-1][0]:
        return None
    for (x0, y0), (x1, y1) in itertools.pairwise(line):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return line[0][1]


class Plane:
    """Changes from the base of every spot, [1 + RESAMPLES, spots]; row 0 is what was measured.

    A spot is a method at a learning rate and a step, averaged over its seeds. Both axes are changes from the
    base on the rows that both have. Rows and seeds are drawn once for all methods, so everything stays
    paired. With one seed the intervals say nothing about seeds, and with three too little.
    """

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
        """The method's spots in one resample, without those that the resample cannot place."""
        places = [place for place, spot in enumerate(self.spots) if spot[0] == method]
        found = [Point(float(self.loss[draw, place]), float(self.score[draw, place])) for place in places]
        return [point for point in found if np.isfinite(point).all()]

    def frontiers(self, method: str) -> list[Frontier]:
        """The method's frontier as measured and in every resample."""
        if method not in self._drawn:
            self._drawn[method] = [frontier(self.points(method, draw)) for draw in range(len(self.score))]
        return self._drawn[method]

    def compare(self, method: str, rival: str) -> dict[str, Any]:
        """Method minus rival: domain score at equal general loss and mean over the common range (more is
        better), general loss at equal domain score (less is better)."""
        pairs = list(zip(self.frontiers(method), self.frontiers(rival), strict=True))
        losses, scores = common_losses(*pairs[0]), common_scores(*pairs[0])

        def change(read: Callable[[Frontier, float], float | None], at: float) -> Stat:
            return _stat([_minus(read(ours, at), read(theirs, at)) for ours, theirs in pairs])

        return {
            "method": method, "rival": rival, "losses": losses, "scores": scores,
            "mean_score": _stat([_mean_score_change(*pair) for pair in pairs]),
            "score_at": [{"loss": at, **change(score_at, at)} for at in _grid(losses)],
            "loss_at": [{"score": at, "rival_loss": loss_at(pairs[0][1], at), **change(loss_at, at)}
                        for at in _grid(scores)],
        }

    def _by_spot(self, base: Measured, points: Sequence[Measured], measure: str,
                 parts: dict[str, np.ndarray], seeds: np.ndarray) -> np.ndarray:
        """Change from the base, more is better: the mean over the drawn seeds.

        A spot none of whose seeds were drawn counts with all it has: an unfinished grid has spots with fewer
        seeds, and without them whole frontiers would end elsewhere.
        """
        rows = parts[measure.split(".")[0]]
        places = [self.spots.index((one.method, one.learning_rate, one.step)) for one in points]
        drawn = [seeds[:, self.seeds.index(one.seed)] for one in points]
        reached = np.zeros((len(rows), len(self.spots)))
        for place, times in zip(places, drawn, strict=True):
            reached[:, place] += times
        total, weight = np.zeros_like(reached), np.zeros_like(reached)
        for one, place, times in zip(points, places, drawn, strict=True):
            times = times + (reached[:, place] == 0)
            change = MEASURES[measure].sign * _change(base.values[measure], one.values[measure], rows)
            total[:, place] += np.where(times > 0, times * change, 0)
            weight[:, place] += times
        return total / weight


def _counts(generator: np.random.Generator, size: int) -> np.ndarray:
    """How often each of `size` things is drawn, [1 + RESAMPLES, size]; row 0 has each once."""
    draws = generator.multinomial(size, np.full(size, 1 / size), RESAMPLES)
    return np.concatenate([np.ones((1, size), dtype=draws.dtype), draws])


def _change(base: Sequence[Pair | None], trained: Sequence[Pair | None], counts: np.ndarray) -> np.ndarray:
    """Trained minus base in every resample. A row that either lacks counts on neither side, as in
    `bootstrap`: otherwise the rows left out of one side would be the change."""
    pairs = np.array([(0.0, 0.0, 0.0, 0.0) if left is None or right is None else (*left, *right)
                      for left, right in zip(base, trained, strict=True)])
    sums = counts @ pairs
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1]


def _mean_score_change(ours: Frontier, theirs: Frontier) -> float | None:
    span = common_losses(ours, theirs)
    return None if span is None else _minus(mean_score(ours, span), mean_score(theirs, span))


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _grid(span: Span | None) -> list[float]:
    return [] if span is None else [span[0] + share * (span[1] - span[0]) for share in FRACTIONS]


def _stat(values: Sequence[float | None]) -> Stat:
    """The first value with the 95 % interval of the others; none where too many resamples have no answer."""
    drawn = np.array([value for value in values[1:] if value is not None])
    known: Stat = {"mean": values[0], "low": None, "high": None}
    if values[0] is None or len(drawn) < ENOUGH * (len(values) - 1) or np.ptp(drawn) == 0:
        return known
    low, high = np.percentile(drawn, TAILS)
    return known | {"low": float(low), "high": float(high)}
