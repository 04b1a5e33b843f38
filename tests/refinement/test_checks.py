"""The checks on answers in five languages: what is wrong is found, what is right is let through."""

import json
import time
from pathlib import Path

import pytest

from benchmarks.checks import ENDS, LONG
from raft_fast.data.dataset import Row
from raft_fast.engines import Reply
from raft_fast.refinement.candidates import Candidate
from raft_fast.refinement.checks import ALWAYS, CHECKS, COMPARING, Case, check
from raft_fast.refinement.checks.language import guess_language
from raft_fast.refinement.equations import choose
from raft_fast.refinement.summary import Tally

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


@pytest.mark.parametrize("unit", LONG)
def test_no_check_takes_long_for_any_text(unit):
    """The older ones took 47 s for a gold table of 20 kB. They take less than 0.1 s."""
    gold = unit * (200_000 // len(unit))
    texts = [text + end for text in (gold, gold[:9_900], (unit * 280)[:9_900]) for end in ENDS]
    for text in texts:
        case = Case("What?", text, Reply("not " + text), PROMPT)
        for name, objects in CHECKS.items():
            start = time.process_time()
            objects(case)
            assert time.process_time() - start < 2, name


def test_a_text_that_is_too_long_to_be_compared_is_checked_for_the_rest():
    long = "The fee for the house is 5 EUR. " * 400
    found = check(Case("What?", long, Reply("It is 6 EUR, I say. " + long)))
    assert set(CHECKS) - set(found) == {*COMPARING}
    assert (found["loops"], found["length"]) == (None, None)
    assert not Case("", "It is 5 m. " * 100, Reply("x" * 10_000)).too_long
    line = choose(Candidate(Row("r", [], "", gold=long), "rewrite", 1, Reply("It is 6 EUR.")), []).as_json()
    assert line["why"].endswith("; too long for the checks numbers, references, negation, bounds, duty")
    tally = Tally()
    tally.add(line)
    assert tally.as_json()["too_long"] == 1


def test_a_number_of_many_digits_stands_beside_a_date():
    assert "numbers" in objections("1 May 2024: " + "1" * 5000, "2 May 2024: " + "1" * 5000)


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
    ("The house is by the river.<|a_mark_to_come|> Yes.", {}, "marks"),
    ("The house <think>which?</think> is by the river.", {}, "marks"),
    ("[INST] Where? [/INST] By the river.", {}, "marks"),
    ("By the river.<start_of_turn>user", {}, "marks"),
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
    ("The notice period is six weeks.", "The notice period is three weeks.", True),
    ("Le délai est de six semaines.", "Le délai est de trois semaines.", True),
    ("The notice period is six weeks.", "There are 6 weeks of notice.", False),
    ("The notice period is short.", "The notice period is six weeks.", True),  # made up, in words
    ("The notice period is short.", "A notice period of one kind or another, a short one, holds.", False),
    ("It takes 14 days.", "It takes two weeks.", False),
    ("The fee is due in March.", "The fee is due in the third month, once a year.", False),
])
def test_spelled_numbers_count_as_digits_do(gold, answer, wrong):
    assert ("numbers" in objections(gold, answer)) == wrong


@pytest.mark.parametrize(("gold", "answer", "wrong"), [
    ("Keep it at -5 °C.", "Keep it at 5 °C.", True),
    ("Keep it at -5 °C.", "It is kept at five degrees below zero.", False),
    ("Förvara vid −5 °C.", "Det förvaras vid fem minusgrader.", False),
    ("Lagern Sie es bei -5 °C.", "Bei minus 5 Grad ist es zu lagern.", False),
    ("Hay que guardarlo a -5 °C.", "Se guarda a 5 °C bajo cero.", False),
    ("Il faut le garder à -5 °C.", "Gardez-le à 5 °C.", True),
    ("It takes half an hour.", "It takes 30 minutes.", False),
    ("It takes half an hour.", "It takes an hour, all in all.", True),
    ("It lasts 1½ years.", "It lasts a year and a half, or 18 months.", False),
    ("It lasts one and a half years.", "It lasts 18 months.", False),
    ("It lasts one and a half years.", "It lasts two and a half years.", True),
    ("Det tar en och en halv timme.", "Det tar 90 minuter.", False),
    ("Es dauert anderthalb Stunden.", "Es dauert 90 Minuten.", False),
    ("Dura un año y medio.", "Dura 18 meses.", False),
    ("Cela dure une demi-heure.", "Cela dure 30 minutes.", False),
    ("Half of the fee is due.", "50 % of the fee is due.", False),
    ("1/2 of the fee is due.", "½ of the fee is due.", False),
    ("1/2 of the fee is due.", "1/4 of the fee is due.", True),
    ("Open 24/7 by law.", "By law it is open 24/7.", False),
    ("We open at 14:30.", "At 2:30 pm we open.", False),
    ("We open at 14:30.", "At 2:30 am we open.", True),
    ("Wir öffnen um 14 Uhr.", "Um 14:00 Uhr wird geöffnet.", False),
    ("Vi öppnar kl. 14.30.", "Klockan 14:30 öppnar vi.", False),
    ("On ouvre à 14h30.", "L'ouverture est à 14:30.", False),
    ("It closes at 12:00.", "It closes at noon.", False),
    ("It is due on 2024-03-05.", "It is due on 5 March 2024.", False),
    ("It is due on March 5, 2024.", "On the 5th of March 2024 it is due.", False),
    ("It is due on March 5, 2024.", "On the 5th of April 2024 it is due.", True),
    ("It is due on March 5, 2024.", "On 5 March 2025 it is due.", True),
    ("It is due on 5-7 March.", "It is due March 5 to 7.", False),
    ("Senast den 5 mars 2024.", "Det är 2024-03-05 som gäller.", False),
    ("Bis zum 5. März 2024.", "Die Frist endet am 05.03.2024.", False),
    ("Antes del 5 de marzo de 2024.", "El 05/03/2024 acaba el plazo.", False),
    ("Avant le 5 mars 2024.", "Le 05/03/2024 au plus tard.", False),
    ("It costs $5k.", "It costs 5,000 dollars.", False),
    ("It costs $5k.", "It costs 5 dollars.", True),
    ("It costs 5 thousand SEK.", "It costs 5,000 kr.", False),
    ("It costs 5 million SEK.", "It costs 5 thousand SEK.", True),
    ("It costs 5 million SEK.", "It costs 5,000,000 kr.", False),
    ("Det kostar 5 miljoner kronor.", "Det kostar 5 tkr.", True),
    ("Es kostet 5 Millionen Euro.", "Es kostet 5.000.000 €.", False),
    ("Cuesta 5 mil euros.", "Cuesta 5.000 euros.", False),
    ("It is two hundred metres long.", "It is 200 m long.", False),
    ("It is a hundred metres long.", "It is 1,100 m long.", True),
    ("Step 1: mix. Step 2: wait 3 minutes.", "Mix it, then wait for 3 minutes.", False),
    ("(1) Mix. (2) Wait 3 minutes.", "1. Mix.\n2. Wait 3 minutes.", False),
    ("Steg 1: blanda. Steg 2: vänta 3 minuter.", "Blanda och vänta i 4 minuter.", True),
])
def test_numbers_in_every_way_of_writing(gold, answer, wrong):
    assert ("numbers" in objections(gold, answer)) == wrong
