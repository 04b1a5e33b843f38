"""The checks on answers in five languages: what is wrong is found, what is right is let through."""

import json
from pathlib import Path

import pytest

from raft_fast.engines import Reply
from raft_fast.refinement.checks import ALWAYS, CHECKS, Case, check
from raft_fast.refinement.checks.language import guess_language

FILE = Path(__file__).parents[2] / "benchmarks/check_pairs.jsonl"
PAIRS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
PROMPT = "Reword the answer below.\n\nQuestion: {question}\n\nFirst answer: {gold}"


def objections(gold, answer, question="What?", **reply):
    case = Case(question, gold, Reply(answer, **reply), PROMPT)
    return {name: reason for name, reason in check(case).items() if reason is not None}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair['language']} {pair['gold'][:30]}")
def test_what_is_wrong_is_found(pair):
    for name, answer in pair["bad"].items():
        assert name in objections(pair["gold"], answer), answer


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair['language']} {pair['gold'][:30]}")
def test_what_is_said_in_other_words_is_let_through(pair):
    for answer in pair["good"]:
        assert objections(pair["gold"], answer) == {}, answer


def test_every_check_is_named_and_each_can_be_skipped():
    case = Case("What?", "It costs 5 m.", Reply("It does not cost 7 m."))
    assert list(check(case)) == [*ALWAYS, *CHECKS]
    skipped = check(case, frozenset({"numbers"}))
    assert set(CHECKS) - set(skipped) == {"numbers"}
    assert skipped["negation"] is not None
    assert set(check(case, frozenset(CHECKS))) == set(ALWAYS)


@pytest.mark.parametrize(("reply", "name"), [
    (Reply("", error="timeout"), "reply"), (Reply(" \n"), "empty")])
def test_where_there_is_no_answer_only_that_is_said(reply, name):
    found = {key for key, reason in check(Case("What?", "It costs 5 m.", reply)).items() if reason}
    assert found == {name}


@pytest.mark.parametrize(("answer", "reply", "name"), [
    ("Half of a", {"finish_reason": "length", "completion_tokens": 9}, "cut_off"),
    ("Half of a", {"finish_reason": "content_filter"}, "cut_off"),
    ("the House stands by the river", {}, "copy"),
    ("what?", {}, "copy"),
    ("First answer: by the river stands the house.", {}, "leak"),
    ("Reword the answer below. Question: where is the house by the river?", {}, "leak"),
    ("The house aaaaaaaaaaaaaaaaaaaa", {}, "loops"),
    ("Дом стоит у реки.", {}, "language"),
    ("The house 房子在河边 stands by the river.", {}, "language"),
    ("The house stands by the river. " * 3, {}, "loops"),
])
def test_what_else_can_be_wrong(answer, reply, name):
    assert name in objections("The house stands by the river.", answer, **reply)


@pytest.mark.parametrize(("gold", "answer", "question"), [
    ("Yes.", "Yes, that is something you may do.", "May I?"),  # short gold answers may grow
    ("A limit of 3 m applies.", "Near roads of class 5 the limit is 3 m.", "Near roads of class 5?"),
    ("As an AI, I cannot help.", "I'm sorry, but I can't help: as an AI I may not.", "Help?"),
    ("No, no, no: never do that.", "Never, no, no, do that.", "May I?"),
    ("See the reference answer in the key.", "The key has the reference answer.", "Where?"),
    ("42", "It is 42.", "What?"),
    ("The λ of Eq. 12.", "Eq. 12 has the λ.", "What?"),
    ("Steps: mix and wait.", "1. Mix.\n2. Wait.", "How?"),
    ("Tokyo is the capital.", "The capital is Tokyo (東京).", "What is 東京?"),
])
def test_no_false_alarm(gold, answer, question):
    assert objections(gold, answer, question) == {}


def test_a_gold_answer_that_repeats_may_be_repeated():
    gold = "Row row row row row row row row your boat."
    assert "loops" not in objections(gold, "Your boat: row row row row row row row row.")


def test_a_language_is_named_only_where_there_is_no_doubt():
    assert guess_language("The house is by the river and it is old.") == "English"
    assert guess_language("Det är ett hus som inte har något tak.") == "Swedish"
    assert guess_language("Hus, tak, dörr.") is None
    assert guess_language("på av med den en som om kan") is None  # Swedish, Danish and Norwegian alike
    assert guess_language("") is None


@pytest.mark.parametrize(("gold", "answer", "reversed_"), [
    ("No permit is required for a shed below 15 m2.", "A permit is required for a shed below 15 m2.", True),
    ("A permit is required for a shed.", "No permit is required for a shed.", True),
    ("Yes, a permit is required.", "No permit is required.", True),
    ("No, a permit is not required.", "Nej, det krävs inget bygglov.", False),
    ("No. You need a permit.", "You need a permit.", False),  # the "no" answered the question
    ("No permit is required.", "A permit isn't needed.", False),
    ("No later than 3 weeks.", "Within 3 weeks.", False),
])
def test_a_no_that_begins_an_answer_denies_what_follows(gold, answer, reversed_):
    assert ("negation" in objections(gold, answer)) == reversed_


@pytest.mark.parametrize(("gold", "answer", "wrong"), [
    ("The notice period is three years.", "The notice period is five years.", True),
    ("Die Frist beträgt drei Wochen.", "Die Frist beträgt fünf Wochen.", True),
    ("You have twenty days to appeal.", "You have 20 days to appeal the decision.", False),
    ("You have 20 days to appeal.", "You have twenty days to appeal the decision.", False),
    ("It has fifteen members.", "There are 15 members in it.", False),
    ("It takes 2 weeks.", "It takes fourteen days.", False),
    ("It takes two weeks.", "It takes 14 days.", False),
])
def test_spelled_numbers_count_as_digits_do(gold, answer, wrong):
    assert ("numbers" in objections(gold, answer)) == wrong
