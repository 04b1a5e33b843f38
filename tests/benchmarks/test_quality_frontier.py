"""Frontiers by hand and by property, and comparisons of two of them in a plane."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.quality.frontier import (
    Plane,
    Point,
    common_losses,
    common_scores,
    frontier,
    loss_at,
    mean_score,
    score_at,
)
from benchmarks.quality.points import Measured

NUMBERS = st.floats(-10, 10).map(lambda x: round(x, 3))
POINTS = st.lists(st.builds(Point, NUMBERS, NUMBERS), min_size=1, max_size=12)
# (0, 1), (2, 3) and (4, 4) are the frontier; (3, 2) and (2, 2.5) are beaten, (3, 3.25) is below a line
SPREAD = [Point(4, 4), Point(3, 2), Point(0, 1), Point(2, 2.5), Point(2, 3), Point(3, 3.25)]
FRONT = [Point(0, 1), Point(2, 3), Point(4, 4)]


def test_by_hand():
    assert frontier(SPREAD) == FRONT
    assert score_at(FRONT, 1) == 2
    assert score_at(FRONT, 3) == 3.5
    assert loss_at(FRONT, 3.5) == 3
    assert mean_score(FRONT, (0, 4)) == pytest.approx((2 * 2 + 2 * 3.5) / 4)
    assert mean_score(FRONT, (1, 3)) == pytest.approx((1 * 2.5 + 1 * 3.25) / 2)


def test_nothing_is_extrapolated():
    for beyond in (-0.1, 4.1):
        assert score_at(FRONT, beyond) is None
    assert loss_at(FRONT, 4.5) is None
    assert mean_score(FRONT, (1, 5)) is None
    assert mean_score(FRONT, (2, 1)) is None
    assert score_at([], 0) is None
    assert common_losses(FRONT, [Point(5, 9), Point(6, 10)]) is None
    assert common_losses(FRONT, []) is None
    assert common_losses(FRONT, [Point(1, 0), Point(9, 3)]) == (1, 4)
    assert common_scores(FRONT, [Point(1, 0), Point(9, 3)]) == (1, 3)


@given(POINTS)
def test_no_point_is_above_the_frontier(points):
    front = frontier(points)
    assert set(front) <= set(points)
    slopes = [(b.score - a.score) / (b.loss - a.loss) for a, b in itertools.pairwise(front)]
    assert all(slope > 0 for slope in slopes)
    assert slopes == sorted(slopes, reverse=True)
    for point in points:
        at = score_at(front, point.loss)
        assert point.score <= (front[-1].score if at is None else at) + 1e-9


ROWS = 40


def measured(method, nll, kl, seed=0, lr=1e-5, step=10, noise=0.0):
    """A model whose every row is `nll` and every general prompt `kl`, give or take noise."""
    dice = np.random.default_rng([seed, int(1e7 * lr), step])
    rows = [(nll + noise * dice.normal(), 1.0) for _ in range(ROWS)]
    prompts = [(10 * (kl + noise * dice.normal()), 10.0) for _ in range(ROWS // 2)]
    return Measured(method, lr, seed, step, {"domain.nll": rows, "own.kl": prompts}, {})


BASE = measured("base", 4.0, 0.0, step=0)


def plane(*points):
    return Plane(BASE, points, "domain.nll", "own.kl")


def test_compare_by_hand():
    """sft: (0.1, 0.2), (0.4, 0.5); raft: (0.2, 0.4), (0.6, 0.6); the stretches from the base do not count."""
    found = plane(measured("sft", 3.8, 0.1), measured("sft", 3.5, 0.4, lr=2e-5),
                  measured("raft", 3.6, 0.2), measured("raft", 3.4, 0.6, lr=2e-5)).compare("raft", "sft")
    assert found["losses"] == pytest.approx((0.2, 0.4))
    assert found["scores"] == pytest.approx((0.4, 0.5))
    middle = found["score_at"][1]
    assert (middle["loss"], middle["mean"]) == (pytest.approx(0.3), pytest.approx(0.45 - 0.4))
    middle = found["loss_at"][1]
    assert (middle["score"], middle["mean"]) == (pytest.approx(0.45), pytest.approx(0.3 - 0.35))
    assert found["mean_score"]["mean"] == pytest.approx(0.45 - 0.4)


def test_where_ranges_do_not_meet_nothing_is_said():
    """A method that only got worse has no frontier but the base."""
    found = plane(measured("sft", 3.6, 0.4), measured("bad", 4.5, 0.1)).compare("bad", "sft")
    assert found["losses"] is None
    assert found["score_at"] == found["loss_at"] == []
    assert found["mean_score"] == {"mean": None, "low": None, "high": None}


def test_a_clear_difference_is_sure_and_none_is_not():
    points = [measured(method, 4 - gain, kl, seed, lr, noise=0.05)
              for seed in range(3) for lr, kl in ((1e-5, 0.3), (2e-5, 0.6))
              for method, gain in (("sft", kl), ("raft", kl + 0.3), ("twin", kl))]
    found = plane(*points)
    better = found.compare("raft", "sft")["mean_score"]
    assert 0 < better["low"] < better["mean"] < better["high"]
    same = found.compare("twin", "sft")["mean_score"]
    assert same["mean"] == 0  # the same rows, seeds and noise
    assert plane(*points).compare("raft", "sft") == found.compare("raft", "sft")


def test_a_row_that_one_side_lacks_counts_on_neither():
    """The same values, and 15 or 20 of the trained model's are missing: nothing was gained."""
    verdicts = [(float(row >= 16), 1.0) for row in range(ROWS)]
    base = replace(BASE, values=BASE.values | {"domain.number_f1": verdicts})
    some, few = measured("sft", 3.5, 0.2), measured("sft", 3.5, 0.4, lr=2e-5)
    some.values["domain.number_f1"] = [None] * 15 + verdicts[15:]
    few.values["domain.number_f1"] = verdicts[:20] + [None] * 20
    score = Plane(base, [some, few], "domain.number_f1", "own.kl").score
    assert np.isfinite(score[0]).all()
    assert np.nanmax(np.abs(score)) < 1e-12
