"""Frontiers in the plane of general loss (x, less is better) and domain score (y, more is better).

A method that learns less also forgets less, so single points say nothing. A method's frontier is the upper
concave hull of all its points (learning rates, checkpoints), from the least loss to the best score. A point
below a line between two others is left out, so that another point never lowers a frontier: who is tried more
often must not look worse. Between neighbours it is interpolated; beyond its ends it is unknown, and
everything asked there is None. The untrained base is no part of it: a straight line from there to a method's
first point is no measurement, and would belittle whoever was tried at few rates.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """What a model lost in general and scores in the domain."""

    loss: float
    score: float


Frontier = list[Point]
Span = tuple[float, float]


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
    """Area under the frontier over `span`, divided by its width: the mean domain score there. A span of no
    width, where a frontier is one point, has the score there."""
    low, high = span
    first, last = score_at(front, low), score_at(front, high)
    if high < low or first is None or last is None:
        return None
    if high == low:
        return first
    inner = [(point.loss, point.score) for point in front if low < point.loss < high]
    path = [(low, first), *inner, (high, last)]
    area = sum((right[0] - left[0]) * (left[1] + right[1]) / 2 for left, right in itertools.pairwise(path))
    return area / (high - low)


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
