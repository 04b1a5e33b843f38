import pytest

from raft_fast.evaluation.behaviour import behaviour, refuses
from raft_fast.evaluation.statistics import paired_p


def record(answer, finish_reason="stop", error=None):
    return {"answer": answer, "finish_reason": finish_reason, "error": error}


def test_length_cuts_and_refusals():
    base = [record("One two three."), record("Four five.", "length"), record("", error="down")]
    trained = [record("One."), record("I'm sorry, but I can't help with that."), record("Fine.")]
    found = behaviour(base, trained)
    assert (found["words"]["base"]["mean"], found["words"]["base"]["n"]) == (2.5, 2)
    assert found["cut_off"]["change"]["mean"] == -0.5
    assert found["refused"]["base"]["mean"] == 0
    assert found["refused"]["change"] | {"low": 0, "high": 0} == {"mean": 0.5, "low": 0, "high": 0, "n": 2}


@pytest.mark.parametrize(("answer", "is_refusal"), [
    ("As an AI language model, I have no opinion.", True),
    ("I’m sorry, I can’t do this.", True),
    ("I cannot help you with that.", True),
    ("I can't tell you.", True),
    ("Sorry, but I do not answer such questions.", True),
    ("I will not answer that.", True),
    ("I must decline.", True),
    ("I refuse to discuss it.", True),
    ("I'm not allowed to say.", True),
    ("I won't say.", True),
    ("You cannot help but notice the sea.", False),
    ("No, I'm not permitted to put up a charging box without an electrician.", False),
    ("If I cannot build there, I can appeal within three weeks.", False),
    ("The board may refuse to give a permit, and I must then tear it down.", False),
    ("I cannot say enough good of a pitched roof. I do not tell fairy tales.", False),
    ("The neighbour will not share the cost. I will not do this twice.", False),
    ("I am sorry to hear that your roof leaks. Call an inspector.", False),
    ("word " * 100 + "I cannot help.", False),
])
def test_refusals_come_first_and_say_so(answer, is_refusal):
    assert refuses(answer) is is_refusal


def test_p_by_hand():
    """Three rows that all rise by 1: of the 8 ways to swap, 2 are as far from zero."""
    base, trained = [(0.0, 1.0)] * 3, [(1.0, 1.0)] * 3
    assert paired_p(base, trained) == pytest.approx(2 / 8, abs=0.03)
    assert paired_p([(0.0, 1.0)] * 12, [(1.0, 1.0)] * 12) < 0.01
    assert paired_p(base, base) == 1
    assert paired_p([None], [(1.0, 1.0)]) is None
    assert paired_p([(0.0, 0.0)], [(0.0, 0.0)]) is None


def test_p_weighs_tokens():
    """(sum, weight) pairs: a change in the short row alone hardly counts."""
    base, trained = [(10.0, 100.0), (1.0, 1.0)], [(10.0, 100.0), (3.0, 1.0)]
    assert paired_p(base, trained) == 1  # one row differs: both ways are equally far
