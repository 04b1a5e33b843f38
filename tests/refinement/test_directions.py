"""Bounds, changes and duties that were turned round, and honest ways to say them, in five languages."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft_fast.engines import Reply
from raft_fast.refinement.checks import CHECKS, COMPARING, Case
from raft_fast.refinement.checks.forms import phrases
from raft_fast.refinement.checks.patterns import meaning

# the same said from below, and from above
LOW = {
    "English": ["at least 5 m", "no less than 5 m", "not less than 5 m", "more than 5 m", "5 m or more",
                "at least five m", "a minimum of 5 m", "5 m at the least", "not under 5 m", "over 5 m"],
    "Swedish": ["minst 5 m", "inte mindre än 5 m", "mer än 5 m", "5 m eller mer", "minst fem meter"],
    "German": ["mindestens 5 m", "nicht weniger als 5 m", "mehr als 5 m", "5 m oder mehr",
               "mindestens fünf Meter"],
    "Spanish": ["al menos 5 m", "no menos de 5 m", "más de 5 m", "5 m o más", "como mínimo cinco metros"],
    "French": ["au moins 5 m", "pas moins de 5 m", "plus de 5 m", "5 m ou plus", "au minimum cinq mètres"],
}
HIGH = {
    "English": ["at most 5 m", "no more than 5 m", "not more than 5 m", "less than 5 m", "5 m or less",
                "up to five m", "a maximum of 5 m", "5 m at most", "not over 5 m", "under 5 m"],
    "Swedish": ["högst 5 m", "inte mer än 5 m", "mindre än 5 m", "5 m eller mindre", "upp till fem meter"],
    "German": ["höchstens 5 m", "nicht mehr als 5 m", "weniger als 5 m", "5 m oder weniger",
               "bis zu fünf Meter"],
    "Spanish": ["como máximo 5 m", "no más de 5 m", "menos de 5 m", "5 m o menos", "hasta cinco metros"],
    "French": ["au plus 5 m", "pas plus de 5 m", "moins de 5 m", "5 m ou moins", "jusqu'à cinq mètres"],
}
FRAME = {"English": "The wall of the house is {} here.", "Swedish": "Väggen på huset är {} här.",
         "German": "Die Wand an dem Haus ist {} hier.", "Spanish": "La pared de la casa es {} aquí.",
         "French": "Le mur de la maison est {} ici."}
BEFORE = {"English": ("before {}", "after {}"), "Swedish": ("före {}", "efter {}"),
          "German": ("vor {}", "nach {}"),
          "Spanish": ("antes de {}", "después de {}"), "French": ("avant {}", "après {}")}


def objects(name, gold, answer):
    return CHECKS[name](Case("What?", gold, Reply(answer))) is not None


@pytest.mark.parametrize("language", LOW)
def test_every_way_to_say_a_bound_agrees_with_its_own_kind_and_with_no_other(language):
    frame = FRAME[language]
    for side, same, opposite in (("low", LOW, HIGH), ("high", HIGH, LOW)):
        for phrase in same[language]:
            gold = frame.format(phrase)
            assert [*meaning("bounds", gold)["bound 5"]] == [side], gold
            for other in same[language]:
                assert not objects("bounds", gold, frame.format(other)), (gold, other)
            for other in opposite[language]:
                assert objects("bounds", gold, frame.format(other)), (gold, other)


@pytest.mark.parametrize("language", BEFORE)
def test_before_a_day_is_not_after_it(language):
    before, after = (FRAME[language].format(way.format("2024-03-05")) for way in BEFORE[language])
    assert objects("bounds", before, after)
    assert not objects("bounds", before, before.replace("2024-03-05", "05.03.2024"))


@pytest.mark.parametrize(("gold", "answer"), [
    ("A permit is needed above 15 m2.", "No permit is needed up to 15 m2."),  # the denial turned too
    ("A permit is needed above 15 m2.", "Only up to 15 m2 you are free of it."),
    ("Less than 5 m is low, more than 5 m high.", "More than 5 m is high."),  # both sides are stated
    ("It takes 5 to 10 weeks.", "It takes from 5 up to 10 weeks."),
    ("Det gäller under 5 år.", "Det gäller minst 5 år."),  # during
    ("A house 4 m high, placed at least 5 m away.", "At most 4 m high, and 5 m or more away."),
])
def test_what_cannot_be_known_is_let_through(gold, answer):
    assert not objects("bounds", gold, answer)


@pytest.mark.parametrize(("gold", "answer", "wrong"), [
    ("The fee is increased by 5 %.", "The fee is reduced by 5 %.", True),
    ("The fee is increased by 5 %.", "The fee will grow by 5 %.", False),
    ("Avgiften sänks med 5 %.", "Avgiften höjs med 5 %.", True),
    ("La taxe augmente de 5 %.", "La taxe diminue de 5 %.", True),
])
def test_changes(gold, answer, wrong):
    assert objects("bounds", gold, answer) == wrong


@pytest.mark.parametrize(("gold", "answer", "wrong"), [
    ("You must pay the fee.", "You may pay the fee.", True),
    ("You must pay the fee.", "You have to pay the fee.", False),
    ("You must pay the fee.", "Pay the fee; you may pay in cash.", False),
    ("Dogs are not allowed.", "Dogs are allowed.", True),
    ("Insurance is required.", "Insurance is optional.", True),
    ("You need not tell us.", "You must not tell us.", True),
    ("Du behöver inte anmäla det.", "Du får inte anmäla det.", True),
    ("Rauchen ist verboten.", "Rauchen ist erlaubt.", True),
    ("Es obligatorio pagar.", "Es opcional pagar.", True),
    ("C'est obligatoire.", "C'est facultatif.", True),
    ("Die Miete darf um höchstens 20 % steigen.", "Mehr als 20 % Mieterhöhung ist unzulässig.", False),
])
def test_duties(gold, answer, wrong):
    assert objects("duty", gold, answer) == wrong


SAID = st.lists(st.sampled_from([
    "at least", "at most", "5 m", "6 days", "not", "must", "may", "no", "before", "after", "14:30", "5 March",
    "-5 °C", "½", "the", "wall", ".", ",", "increase", "forbidden", "only", "5k", "step 3:", "(1)",
    "exceed", "five", "half an hour", "minst", "inte", "nicht", "unterschreiten", "al menos", "ne", "pas",
    "plus de", "\n", "1.500", "2024-03-05"]), max_size=12)


@settings(max_examples=200, deadline=None)
@given(SAID)
def test_no_check_of_meaning_objects_to_the_gold_answer_itself(said):
    text = " ".join(said)
    for name in COMPARING:
        assert not objects(name, text, text), name


@settings(max_examples=100, deadline=None)
@given(SAID, SAID)
def test_who_contradicts_is_contradicted(one, other):
    one, other = " ".join(one), " ".join(other)
    for name in ("bounds", "duty"):
        assert objects(name, one, other) == objects(name, other, one), name


def test_every_language_has_every_list():
    files = phrases()
    assert set(files) == {"English", "Swedish", "German", "Spanish", "French"}
    for language, lists in files.items():
        assert lists.keys() == files["English"].keys(), language
        assert all(phrase for one in lists.values() for phrase in one)


@pytest.mark.parametrize(("gold", "answer", "reversed_"), [
    ("No permit is required for a shed below 15 m2.", "A permit is required for a shed below 15 m2.", True),
    ("Yes, a permit is required.", "No permit is required.", True),
    ("No, a permit is not required.", "Nej, det krävs inget bygglov.", False),
    ("No. You need a permit.", "You need a permit.", False),  # the "no" answered the question
    ("No permit is required.", "A permit isn't needed.", False),
    ("No later than 3 weeks.", "Within 3 weeks.", False),
])
def test_a_no_that_begins_an_answer_denies_what_follows(gold, answer, reversed_):
    assert objects("negation", gold, answer) == reversed_
