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


@pytest.mark.parametrize(("name", "gold", "answer", "wrong"), [
    ("bounds", "A permit is needed above 15 m2.", "No permit is needed up to 15 m2.", False),  # both turned
    ("bounds", "A permit is needed above 15 m2.", "Only up to 15 m2 you are free of it.", False),
    ("bounds", "Less than 5 m is low, more than 5 m high.", "More than 5 m is high.", False),  # both sides
    ("bounds", "It takes 5 to 10 weeks.", "It takes from 5 up to 10 weeks.", False),
    ("bounds", "Det gäller under 5 år.", "Det gäller minst 5 år.", False),  # during
    ("bounds", "A house 4 m high, at least 5 m away.", "At most 4 m high, and 5 m or more away.", False),
    ("bounds", "Die Wand ist vor 2024-03-05 fertig.", "Die Wand ist nach 2024-03-05 fertig.", True),
    ("bounds", "Apply before 2024-03-05.", "Apply before 05.03.2024.", False),
    ("bounds", "The fee is increased by 5 %.", "The fee is reduced by 5 %.", True),
    ("bounds", "The fee is increased by 5 %.", "The fee will grow by 5 %.", False),
    ("bounds", "Avgiften sänks med 5 %.", "Avgiften höjs med 5 %.", True),
    ("bounds", "La taxe augmente de 5 %.", "La taxe diminue de 5 %.", True),
    ("duty", "You must pay the fee.", "You may pay the fee.", True),
    ("duty", "You must pay the fee.", "You have to pay the fee.", False),
    ("duty", "You must pay the fee.", "Pay the fee; you may pay in cash.", False),
    ("duty", "Dogs are not allowed.", "Dogs are allowed.", True),
    ("duty", "Insurance is required.", "Insurance is optional.", True),
    ("duty", "You need not tell us.", "You must not tell us.", True),
    ("duty", "Du behöver inte anmäla det.", "Du får inte anmäla det.", True),
    ("duty", "Rauchen ist verboten.", "Rauchen ist erlaubt.", True),
    ("duty", "Es obligatorio pagar.", "Es opcional pagar.", True),
    ("duty", "C'est obligatoire.", "C'est facultatif.", True),
    ("duty", "Die Miete darf höchstens 20 % steigen.", "Mehr als 20 % Mieterhöhung ist unzulässig.", False),
    ("negation", "No permit is required below 15 m2.", "A permit is required below 15 m2.", True),
    ("negation", "Yes, a permit is required.", "No permit is required.", True),
    ("negation", "No, a permit is not required.", "Nej, det krävs inget bygglov.", False),
    ("negation", "No. You need a permit.", "You need a permit.", False),  # the "no" answered the question
    ("negation", "No permit is required.", "A permit isn't needed.", False),
    ("negation", "No later than 3 weeks.", "Within 3 weeks.", False),
])
def test_what_was_turned_round_is_found_and_what_cannot_be_known_is_let_through(name, gold, answer, wrong):
    assert objects(name, gold, answer) == wrong


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
