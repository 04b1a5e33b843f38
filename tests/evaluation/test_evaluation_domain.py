import math
from contextlib import contextmanager

import numpy as np
import pytest
from evaluation_stubs import OverlapEncoder, StubEngine, make_rows

from raft_fast.engines import Reply
from raft_fast.evaluation.domain import collect, evaluate_domain, score_answer, token_f1
from raft_fast.evaluation.statistics import paired_change, paired_ratio, share, weighted_mean
from raft_fast.run.progress import Reporter


def test_token_f1_by_hand():
    # gold: the permit takes ten weeks (5); answer: ten ten weeks (3); common: ten, weeks (2)
    assert token_f1("The permit takes ten weeks.", "TEN, ten weeks!") == pytest.approx(2 * 2 / 8)
    assert token_f1("same", "same") == 1
    assert token_f1("word", "") == 0
    assert token_f1("m²", "m2") == 1  # NFKC


def test_score_answer_leaves_out_what_the_gold_does_not_have():
    scores = score_answer("Ask your neighbour.", "Ask them in 4 weeks, PBL 9 kap. 4 §.")
    assert scores["number_f1"] is None
    assert scores["reference_f1"] is None


def test_nll_is_total_over_total():
    rows = make_rows(3)

    class Engine(StubEngine):
        def nll(self, conversations, completions):
            yield from ((index, (float(index + 1) * 4, 2 + index)) for index in (2, 0, 1))

    scores = evaluate_domain(Engine(str.upper), rows, 8, OverlapEncoder(), Reporter(), "base")
    assert scores.means["nll"]["mean"] == pytest.approx((4 + 8 + 12) / (2 + 3 + 4))
    assert [record["row_id"] for record in scores.records] == [row.row_id for row in rows]
    assert scores.records[1]["answer"] == rows[1].prompt[-1]["content"].upper()


def test_failed_replies_have_no_score_and_an_engine_without_nll_none():
    class Remote:
        identity = "remote"
        generate = StubEngine(lambda text: "", error="refused").generate

    scores = evaluate_domain(Remote(), make_rows(2), 8, OverlapEncoder(), Reporter(), "base")
    assert scores.means["token_f1"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert scores.means["nll"]["n"] == 0
    assert scores.records[0]["error"] == "refused"


def test_an_empty_answer_is_like_nothing():
    scores = evaluate_domain(StubEngine(lambda text: " "), make_rows(2), 8, OverlapEncoder(),
                             Reporter(), "base")
    assert scores.means["similarity"]["mean"] == 0


def test_wilson_interval_by_hand():
    found = share([True] * 2 + [False] * 8)
    assert found["mean"] == 0.2
    # textbook value for 2 of 10
    assert (found["low"], found["high"]) == (pytest.approx(0.0567, abs=1e-4),
                                             pytest.approx(0.5098, abs=1e-4))
    assert share([False] * 5)["high"] == pytest.approx(0.4345, abs=1e-4)
    assert share([])["mean"] is None


def test_bootstrap_covers_and_repeats():
    values = [(float(value), 1.0) for value in np.random.default_rng(1).normal(3, 1, 200)]
    found = weighted_mean([*values, None])
    assert found["n"] == 200
    half = (found["high"] - found["low"]) / 2
    assert half == pytest.approx(1.96 / math.sqrt(200), rel=0.15)
    assert found == weighted_mean([*values, None])
    assert weighted_mean([(0.5, 1.0)])["low"] is None


def test_change_is_paired():
    base = [(float(value), 1.0) for value in range(10)]
    trained = [(value + 0.1 + 0.01 * (place % 2), weight)
               for place, (value, weight) in enumerate(base)]
    change = paired_change([*base, None], [*trained, (5.0, 1.0)])
    assert change["n"] == 10
    assert change["mean"] == pytest.approx(0.105)
    assert 0.1 <= change["low"] < change["high"] <= 0.11 + 1e-9  # unpaired it would span zero
    assert paired_change(base, base) == {"mean": 0.0, "low": None, "high": None, "n": 10}


def test_a_share_of_the_base_by_hand():
    """2 of 4 instructions before, 3 of 4 after; a row that either lacks is no part of it."""
    base, trained = [(1.0, 1.0), (0.0, 1.0), (1.0, 2.0)], [(1.0, 1.0), (1.0, 1.0), (1.0, 2.0)]
    found = paired_ratio([*base, None, (9.0, 9.0)], [*trained, (5.0, 5.0), None])
    assert (found["mean"], found["n"]) == (1.5, 3)
    assert 1 <= found["low"] < 1.5 < found["high"]
    assert paired_ratio(base, base) == {"mean": 1.0, "low": None, "high": None, "n": 3}
    assert paired_ratio([(0.0, 1.0)], [(1.0, 1.0)])["mean"] is None
    assert paired_ratio([None], [None])["mean"] is None


def test_progress_tells_what_the_engine_is_at():
    """Nothing advances while a batch is drawn, minutes long."""
    shown = []

    class Engine:
        def under_way(self):
            return "at token 3 of at most 9"

        def generate(self, prompts, sampling):
            assert shown[-1]() == "at token 3 of at most 9"
            yield from ((index, Reply("yes")) for index, _ in enumerate(prompts))

    class Shown(Reporter):
        @contextmanager
        def phase(self, *_):
            yield lambda steps=1, note="": shown.append(note)

    assert len(collect(Engine(), [[], []], 9, Shown(), "evaluate")) == 2
    assert len(shown) == 3
