import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.quality.frontier import (
    Point,
    common_losses,
    common_scores,
    frontier,
    loss_at,
    mean_score,
    score_at,
)

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


def test_a_frontier_of_one_point_is_compared_there():
    one = [Point(3, 9)]
    span = common_losses(FRONT, one)
    assert span == (3, 3)
    assert mean_score(one, span) - mean_score(FRONT, span) == 9 - 3.5
    assert common_losses(FRONT, [Point(5, 9)]) is None


def test_a_single_point_is_known_where_it_is():
    assert score_at([Point(1, 2)], 1) == 2
    assert score_at([Point(1, 2)], 1.1) is None


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


@given(POINTS, POINTS, st.floats(0, 1))
@example([Point(0, 0), Point(2, 2)], [Point(1.5, 0.5)], 0.75)  # lines through all unbeaten points would fall
def test_more_points_never_lower_it(points, more, share):
    front, richer = frontier(points), frontier([*points, *more])
    loss = min(front[0].loss + share * (front[-1].loss - front[0].loss), front[-1].loss)
    at = score_at(richer, loss)
    assert (richer[-1].score if at is None else at) >= score_at(front, loss) - 1e-9


@given(POINTS, st.floats(0, 1))
def test_both_readings_agree_and_stay_inside(points, share):
    front = frontier(points)
    loss = front[0].loss + share * (front[-1].loss - front[0].loss)
    score = score_at(front, min(loss, front[-1].loss))
    assert front[0].score - 1e-9 <= score <= front[-1].score + 1e-9
    back = loss_at(front, min(max(score, front[0].score), front[-1].score))
    steepest = max([abs((b.loss - a.loss) / (b.score - a.score))
                    for a, b in itertools.pairwise(front)], default=0)
    assert back == pytest.approx(loss, abs=1e-6 * (1 + steepest))


@given(POINTS, NUMBERS)
def test_a_better_method_has_the_larger_area(points, push):
    front = frontier(points)
    span = (front[0].loss, front[-1].loss)
    raised = frontier([Point(one.loss, one.score + abs(push)) for one in points])
    if span[0] < span[1]:
        assert mean_score(raised, span) == pytest.approx(mean_score(front, span) + abs(push))
