"""What the report counts, against numbers worked out by hand."""

import random
import tracemalloc

import pytest
from stage1_stubs import decision, many

from raft_fast.report.stage1.examples import Examples
from raft_fast.report.stage1.histogram import Histogram
from raft_fast.report.stage1.tally import BELOW, OTHER_CHECK, PASSED, count


def a_round(number, *scores, fused="f", checks=None):
    given = [score for score in scores if score is not None]
    return {"round": number, "fused": fused, "checks": checks or {},
            "score": sum(given) / len(given) if given else None,
            "scores": [{"judge": f"j{place}", "score": score,
                        "error": None if score is not None else "broken"}
                       for place, score in enumerate(scores)]}


def row(row_id, source, similarity=0.9, rounds=(), rewrite="r", nll=None, refused=None):
    return {"row_id": row_id, "source": source, "similarity": similarity, "rounds": list(rounds),
            "rewrite": rewrite, "checks": {"cut_off": None} | (refused or {}), "nll": nll,
            "why": "because", "prompt": []}


def test_every_row_is_counted_once_at_every_step():
    tally = count([
        row("a", "fused", rounds=[a_round(1, 0.5, 0.7), a_round(2, 0.9, 0.8)]),
        row("b", "fused", rounds=[a_round(1, 0.4, 0.4), a_round(2, 0.4, 0.4)]),
        row("c", "rewrite", rounds=[a_round(1, None, None), a_round(2, checks={"copy": "same"})]),
        row("d", "gold", similarity=0.5, refused={"similarity": "below"}),
        row("e", "gold", rewrite=None, similarity=None, refused={"reply": "no reply: busy"}),
        None,
    ], tau=0.8, judge_stop=0.8)
    assert (tally.rows, tally.damaged) == (5, 1)
    assert (tally.rewritten, tally.passed, tally.fused, tally.good) == (4, 3, 3, 1)
    assert tally.sources == {"fused": 2, "rewrite": 1, "gold": 2}
    assert tally.rewrite_objections == {"similarity": 1, "reply": 1}
    assert tally.fusion_objections == {"copy": 1}
    one, two = tally.rounds[1], tally.rounds[2]
    assert (one.drawn, one.refused, one.scores.n, one.chosen) == (3, 0, 2, 1)
    assert (two.drawn, two.refused, two.scores.n, two.chosen) == (3, 1, 2, 1)
    assert one.scores.mean == pytest.approx((0.6 + 0.4) / 2)


def test_judges_are_held_against_each_other_on_the_fusions_that_both_scored():
    tally = count([row("a", "fused", rounds=[a_round(1, 0.9, 0.5), a_round(2, 0.5, None)])],
                  0.8, 0.8)
    first, second = tally.judges["j0"], tally.judges["j1"]
    assert (first.scores.n, first.failed, second.scores.n, second.failed) == (2, 0, 1, 1)
    assert second.error == "broken"
    assert first.apart.mean == pytest.approx(0.4)
    assert second.apart.mean == pytest.approx(-0.4)
    assert tally.spread.n == 1
    assert tally.spread.counts[4] == 1 or tally.spread.counts[3] == 1  # 0.9 - 0.5, up to rounding


def test_tau_is_an_edge_and_a_bar_says_why_a_row_was_kept_out():
    tally = count([row("a", "fused", 0.8), row("b", "gold", 0.7999, refused={"similarity": "below"}),
                   row("c", "gold", 0.95, refused={"copy": "same"}), row("d", "fused", 1.0000001)], 0.8, None)
    assert tally.similarities[PASSED] == {0: 1, 4: 1}
    assert tally.similarities[BELOW] == {-1: 1}
    assert tally.similarities[OTHER_CHECK] == {3: 1}


def test_the_gap_is_measured_on_what_each_row_is_trained_on():
    tally = count([row("a", "fused", nll={"gold": 3.0, "rewrite": 1.0, "fused": 2.0}),
                   row("b", "gold", nll={"gold": 2.0, "rewrite": 0.5, "fused": None}),
                   row("c", "rewrite", nll={"gold": 4.0, "rewrite": 1.0, "fused": None}),
                   row("d", "gold", nll=None)], 0.8, None)
    assert tally.likelihoods.gold.n == 3
    assert tally.likelihoods.gold.mean == pytest.approx(3.0)
    assert tally.likelihoods.training.mean == pytest.approx((2 + 2 + 1) / 3)


def test_quantiles_of_a_histogram_are_right_to_within_a_bin():
    dice = random.Random(3)
    values = sorted(dice.betavariate(2, 5) for _ in range(5000))
    histogram = Histogram(0, 1, 100)
    for value in values:
        histogram.add(value)
    for share in (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0):
        exact = values[min(int(share * len(values)), len(values) - 1)]
        assert histogram.quantile(share) == pytest.approx(exact, abs=0.011)
    assert Histogram(0, 1, 10).quantile(0.5) is None


def test_examples_are_the_same_in_any_order_and_spread_over_reasons():
    rows = [(reason, {"row_id": f"{reason}{n}"}) for reason, n in
            [*(("often", n) for n in range(50)), ("once", 0), *(("twice", n) for n in range(2))]]
    found = []
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        examples = Examples(10)
        for reason, record in rows:
            examples.add(reason, record)
        found.append([record["row_id"] for record in examples.chosen()])
    assert found[0] == found[1] == found[2]
    kinds = [name.rstrip("0123456789") for name in found[0]]
    assert sorted(kinds[:3]) == ["often", "once", "twice"]
    assert len(kinds) == 10
    assert kinds.count("once") == 1
    assert kinds.count("twice") == 2


def test_memory_does_not_grow_with_the_rows():
    def peak(rows):
        dice = random.Random(1)
        tracemalloc.start()
        count((decision(number, dice) for number in range(rows)), 0.8, 0.8)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    assert peak(4000) < 1.5 * peak(1000)


def test_many_makes_every_kind_of_decision():
    tally = count(many(96), 0.8, 0.8)
    assert tally.sources["gold"] > 10
    assert tally.sources["fused"] > 10
    assert len(tally.rejected.chosen()) == len(tally.accepted.chosen()) == 10
