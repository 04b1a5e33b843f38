"""Eqs. 1-4 against numbers worked out by hand."""

import pytest
from raft_fast.refinement.decisions import Filtered, Round, Tokens, Verdict, decide, refined_row
from raft_fast.refinement.filter import Filter
from raft_fast.refinement.rewrite import rewrite
from refinement_stubs import StubEncoder, StubEngine, row

from raft_fast.data.dataset import Row
from raft_fast.data.texts import Message
from raft_fast.engines import Reply, Sampling
from raft_fast.engines.asking import Part, Prompt, load_prompt, load_prompts
from raft_fast.engines.journal import Journal
from raft_fast.refinement.summary import Tally
from raft_fast.run.errors import UserError


def test_eq1_the_rewriter_sees_question_and_gold_answer_in_the_rows_context(tmp_path):
    turns = [Message(role="system", content="Be brief."), Message(role="user", content="Hi"),
             Message(role="assistant", content="Hello"),
             Message(role="user", content="How tall {x}?")]
    engine = StubEngine("stub", lambda text, seed: f"  rewritten {seed}\n")
    with Journal(tmp_path) as journal:
        reply, = rewrite([Row("1", turns, "3 m", "3 m")], Part("--rewriter", engine, journal),
                         Sampling(seed=5), load_prompt("rewrite"))
    asked, = engine.asked
    assert asked[:3] == turns[:3]
    assert asked[3]["role"] == "user"
    assert "How tall {x}?" in asked[3]["content"]
    assert "3 m" in asked[3]["content"]
    assert reply.text == "rewritten 5"


def one_filtered(reply, similarity, tau=0.8, gold="gold answer"):
    encoder = StubEncoder({reply.text: similarity} if reply.text.strip() else {})
    return Filter(encoder, tau).rewrites([row("1", gold=gold)], [reply], Prompt("rewrite", ""))[0]


@pytest.mark.parametrize(("similarity", "passes"), [
    (0.7999, False), (0.8, True), (0.95, True), (-0.2, False)])
def test_eq3_keeps_the_rewrite_from_tau_on(similarity, passes):
    found = one_filtered(Reply("rewrite"), similarity)
    assert found.passed is passes
    assert found.answer == ("rewrite" if passes else "gold answer")
    assert found.similarity == similarity


@pytest.mark.parametrize(("reply", "check"), [
    (Reply(""), "empty"),
    (Reply("  \n"), "empty"),
    (Reply("half a sen", "length", completion_tokens=9), "cut_off"),
    (Reply("gold  answer\n"), "copy"),
    (Reply("", error="timeout"), "reply"),
])
def test_what_cannot_be_used_falls_back_to_gold_whatever_tau_says(reply, check):
    found = one_filtered(reply, 1.0, tau=-1.0)
    assert found.answer == "gold answer"
    assert found.checks[check] is not None


def test_a_similarity_that_is_no_number_is_an_objection_not_a_nan():
    found = one_filtered(Reply("rewrite"), float("nan"))
    assert found.similarity is None
    assert not found.passed


def verdicts(*scores):
    return [Verdict(f"judge {n}", score, None if score is not None else "no score", Tokens())
            for n, score in enumerate(scores)]


def a_round(number, *scores, checks=None, quorum=1):
    return Round(number, Reply(f"fusion {number}"), 0.9, checks or {}, quorum, verdicts(*scores))


PASSED = Filtered(row("1"), Reply("rewrite"), 0.9, {})


def test_eq4_the_score_of_a_round_is_the_mean_of_the_judges_that_gave_one():
    assert a_round(1, 0.2, 0.6, 1.0).score == pytest.approx(0.6)
    assert a_round(1, 0.2, None, 1.0).score == pytest.approx(0.6)  # with 0 for None: 0.4
    assert a_round(1, None, None).score is None


def test_a_round_has_no_score_below_the_quorum():
    assert a_round(1, 0.9, None, 0.7, quorum=2).score == pytest.approx(0.8)
    assert a_round(1, 0.9, None, None, quorum=2).score is None
    decision = decide(PASSED, [a_round(1, 0.9, None, None, quorum=2), a_round(2, 0.1, 0.1, None, quorum=2)])
    assert decision.answer == "fusion 2"  # a single judge's 0.9 does not count
    alone = decide(PASSED, [a_round(1, 0.9, None, None, quorum=2)])
    assert (alone.source, alone.answer) == ("rewrite", "rewrite")
    assert "1 of 3 judges gave a score and the quorum is 2" in alone.why


def test_how_far_judges_disagree_is_told_by_range_and_mean_difference():
    one = a_round(1, 0.2, 0.6, None, 1.0)  # differences 0.4, 0.8, 0.4
    assert one.disagreement == {"range": pytest.approx(0.8), "mean_difference": pytest.approx(1.6 / 3)}
    assert a_round(1, 0.5, None).disagreement is None


def test_eq4_the_best_round_wins_and_the_earlier_of_equals():
    decision = decide(PASSED, [a_round(1, 0.3, 0.5), a_round(2, 0.7, 0.6), a_round(3, 0.9, 0.3)])
    assert (decision.source, decision.answer) == ("fused", "fusion 2")
    assert "0.650 from 2 of 2 judges" in decision.why
    equal = [a_round(1, 0.7, 0.6), a_round(2, 0.9, 0.4)]  # 0.65 both, one a rounding below
    assert decide(PASSED, equal).answer == "fusion 1"


def test_eq4_a_score_of_zero_is_a_score():
    assert decide(PASSED, [a_round(1, 0.0)]).answer == "fusion 1"


def test_eq4_where_no_score_can_be_had_the_row_keeps_the_filtered_answer():
    decision = decide(PASSED, [a_round(1, None), a_round(2, checks={"empty": "empty reply"})])
    assert (decision.source, decision.answer) == ("rewrite", "rewrite")
    assert "round 1: judge 0: no score" in decision.why
    assert "round 2: empty reply" in decision.why


def test_a_row_that_failed_the_filter_keeps_gold():
    failed = Filtered(row("1"), Reply("rewrite"), 0.5, {"similarity": "similarity 0.500 is below"})
    decision = decide(failed, [])
    assert (decision.source, decision.answer) == ("gold", "gold answer")
    assert "0.500" in decision.why
    assert refined_row(decision.as_json()).rewrite is None


def test_prompts_are_versioned_by_their_words_and_refuse_wrong_fields():
    for name in ("rewrite", "fuse", "judge"):
        assert load_prompt(name).version.startswith(f"{name}-")
    assert Prompt("a", "{x}!").version != Prompt("a", "{x}?").version
    assert Prompt("a", "{x}!").fill(x="{y} 100 %") == "{y} 100 %!"
    with pytest.raises(ValueError, match=r"prompts/a.txt"):
        Prompt("a", "{x}!").fill(y="1")


def test_own_prompts_take_the_place_of_the_shipped_ones_and_have_another_version(tmp_path):
    (tmp_path / "fuse.txt").write_text("{question} {gold} {rewrite} {{sic}}\n")
    own, shipped = load_prompts(str(tmp_path)), load_prompts()
    assert own.fuse.fill(question="q", gold="g", rewrite="r") == "q g r {sic}"
    assert own.fuse.version != shipped.fuse.version
    assert own.judge == shipped.judge


@pytest.mark.parametrize(("file", "text", "says"), [
    ("judge.txt", "{question} {answer}", r"judge.txt: lacks the placeholder \{gold\}"),
    ("rewrite.txt", "{question} {answer} {tone}", r"rewrite.txt: has the placeholder \{tone\}"),
    ("rewrite.txt", "{question} {answer} {", r"rewrite.txt: .*written twice"),
    ("juge.txt", "x", "juge.txt is no prompt"),
    ("judge.md", "x", "holds no prompt"),
])
def test_a_prompt_that_cannot_be_filled_is_named_with_its_placeholder(tmp_path, file, text, says):
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=says):
        load_prompts(str(tmp_path))


def test_the_judge_prompt_ends_by_asking_for_one_digit():
    assert "from 0 to 9" in load_prompt("judge").text.splitlines()[-1]


def test_a_floor_keeps_a_rewrite_that_passed_from_a_fusion_nobody_likes():
    poor = [a_round(1, 0.1, 0.3), a_round(2, 0.0, 0.0)]
    assert decide(PASSED, poor, 0.2).answer == "fusion 1"
    kept = decide(PASSED, poor, 0.25)
    assert (kept.source, kept.answer) == ("rewrite", PASSED.answer)
    assert kept.why == "no fusion's mean score reaches 0.25; the best is 0.200"
    tally = Tally()
    for decision in (kept, decide(PASSED, poor), decide(PASSED, [a_round(1, 0.5)])):
        tally.add(decision.as_json())
    assert tally.as_json()["fused_below_half"] == 1
