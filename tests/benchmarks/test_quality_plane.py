from dataclasses import replace

import numpy as np
import pytest

from benchmarks.quality.measures import Measured, mean
from benchmarks.quality.plane import Plane
from raft_fast.evaluation.statistics import paired_change

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


def test_axes_are_changes_from_the_base():
    found = plane(measured("sft", 3.5, 0.2), measured("sft", 3.0, 0.6, lr=2e-5))
    assert found.points("sft") == [pytest.approx((0.2, 0.5)), pytest.approx((0.6, 1.0))]
    assert found.frontier("sft") == found.points("sft")  # the base is no part of it


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


def test_a_single_point_is_compared_where_it_is():
    """sft is (0.1, 0.2) to (0.4, 0.5); between the base and a method's only point nothing was measured."""
    found = plane(measured("sft", 3.8, 0.1), measured("sft", 3.5, 0.4, lr=2e-5),
                  measured("raft", 3.6, 0.2)).compare("raft", "sft")
    assert found["losses"] == pytest.approx((0.2, 0.2))
    assert found["mean_score"]["mean"] == pytest.approx(0.4 - 0.3)
    assert {one["loss"] for one in found["score_at"]} == {found["losses"][0]}


def test_where_ranges_do_not_meet_nothing_is_said():
    """A method that only got worse has no frontier but the base."""
    found = plane(measured("sft", 3.6, 0.4), measured("bad", 4.5, 0.1)).compare("bad", "sft")
    assert found["losses"] is None
    assert found["score_at"] == found["loss_at"] == []
    assert found["mean_score"] == {"mean": None, "low": None, "high": None, "p": None}


def test_a_clear_difference_is_sure_and_none_is_not():
    points = [measured(method, 4 - gain, kl, seed, lr, noise=0.05)
              for seed in range(3) for lr, kl in ((1e-5, 0.3), (2e-5, 0.6))
              for method, gain in (("sft", kl), ("raft", kl + 0.3), ("twin", kl))]
    found = plane(*points)
    better = found.compare("raft", "sft")["mean_score"]
    assert 0 < better["low"] < better["mean"] < better["high"]
    assert better["p"] < 0.01
    same = found.compare("twin", "sft")["mean_score"]
    assert same["mean"] == 0  # the same rows, seeds and noise
    assert plane(*points).compare("raft", "sft") == found.compare("raft", "sft")


def test_seeds_widen_the_interval():
    def interval(spread):
        points = [measured(method, 4 - kl - gain + spread * seed, kl, seed, lr, noise=0.01)
                  for seed in range(3) for lr, kl in ((1e-5, 0.3), (2e-5, 0.6))
                  for method, gain in (("sft", 0.0), ("raft", 0.1 + spread * seed))]
        found = plane(*points).compare("raft", "sft")["mean_score"]
        return found["high"] - found["low"]

    assert interval(0.1) > 3 * interval(0.0)


def test_a_rate_tried_with_fewer_seeds_still_has_an_interval():
    """Of three seeds sft has one: it stands where it is, in every resample."""
    points = [measured(method, 4 - gain, kl, seed, lr, noise=0.05)
              for seed in range(3) for lr, kl in ((1e-5, 0.3), (2e-5, 0.6))
              for method, gain in (("sft", kl), ("raft", kl + 0.3)) if method == "raft" or not seed]
    found = plane(*points).compare("raft", "sft")["mean_score"]
    assert 0 < found["low"] < found["mean"] < found["high"]


def test_a_row_without_a_value_counts_nowhere():
    assert mean([(1.0, 2.0), None, (2.0, 1.0)]) == 1
    assert mean([None]) is None
    some = measured("sft", 3.5, 0.2)
    some.values["domain.nll"][:5] = [None] * 5
    assert plane(some).score[0] == pytest.approx(4.0 - 3.5)


def test_a_row_that_one_side_lacks_counts_on_neither():
    """Same verdicts, and of the trained model's 15 wrong ones no quorum: nothing was gained."""
    verdicts = [(float(row >= 16), 1.0) for row in range(ROWS)]
    base = replace(BASE, values=BASE.values | {"domain.jury": verdicts})
    some, few = measured("sft", 3.5, 0.2), measured("sft", 3.5, 0.4, lr=2e-5)
    some.values["domain.jury"] = [None] * 15 + verdicts[15:]
    few.values["domain.jury"] = verdicts[:20] + [None] * 20
    assert paired_change(verdicts, some.values["domain.jury"])["mean"] == 0
    found = Plane(base, [some, few], "domain.jury", "own.kl")
    known = np.isfinite(found.score)
    assert known[0].all()
    assert np.abs(found.score[known]).max() < 1e-12
    less = replace(base, values=base.values | {"domain.jury": some.values["domain.jury"]})
    whole = replace(some, values=some.values | {"domain.jury": verdicts})
    assert Plane(less, [whole], "domain.jury", "own.kl").score[0] == pytest.approx(0)


def test_points_survive_json():
    one = measured("sft", 3.5, 0.2)
    one.values["domain.nll"][3] = None
    again = Measured.load(one.as_json())
    assert again == one
    assert one.as_json()["means"]["own.kl"] == pytest.approx(0.2)
