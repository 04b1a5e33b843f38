"""Numbers, units, dates and times in every way of writing, in five languages."""

import pytest

from raft_fast.engines import Reply
from raft_fast.refinement.checks import CHECKS, Case
from raft_fast.refinement.checks.numbers import number_set


def wrong_numbers(gold, answer):
    return CHECKS["numbers"](Case("What?", gold, Reply(answer))) is not None


@pytest.mark.parametrize(("text", "expected"), [
    ("15,000 SEK", {"15000 sek"}),
    ("4–6 weeks", {"4 week", "6 week"}),
    ("25,000-50,000 SEK", {"25000 sek", "50000 sek"}),
    ("18,000–32,000 SEK/m²", {"18000 sek/m2", "32000 sek/m2"}),
    ("In 1998 and 0,125", {"1998", "0.125"}),
    ("1,234.50 and 1.234,50 and 1 234,50", {"1234.5"}),
    ("1. First\n2. Second", set()),
    ("the 2nd C25 house", set()),
])
def test_number_set(text, expected):
    assert number_set(text) == expected


@pytest.mark.parametrize(("gold", "answer", "wrong"), [
    ("The notice period is three years.", "The notice period is five years.", True),
    ("You have twenty days to appeal.", "You have 20 days to appeal the decision.", False),
    ("It takes 2 weeks.", "It takes fourteen days.", False),
    ("The notice period is six weeks.", "The notice period is three weeks.", True),
    ("The notice period is short.", "The notice period is six weeks.", True),  # made up, in words
    ("The notice period is short.", "A notice period of one kind or another, a short one, holds.", False),
    ("The fee is due in March.", "The fee is due in the third month, once a year.", False),
    ("1 May 2024: " + "1" * 5000, "2 May 2024: " + "1" * 5000, True),
    ("Keep it at -5 °C.", "Keep it at 5 °C.", True),
    ("Keep it at -5 °C.", "It is kept at five degrees below zero.", False),
    ("Förvara vid −5 °C.", "Det förvaras vid fem minusgrader.", False),
    ("Hay que guardarlo a -5 °C.", "Se guarda a 5 °C bajo cero.", False),
    ("It takes half an hour.", "It takes 30 minutes.", False),
    ("It takes half an hour.", "It takes an hour, all in all.", True),
    ("It lasts 1½ years.", "It lasts a year and a half, or 18 months.", False),
    ("It lasts one and a half years.", "It lasts two and a half years.", True),
    ("Det tar en och en halv timme.", "Det tar 90 minuter.", False),
    ("Es dauert anderthalb Stunden.", "Es dauert 90 Minuten.", False),
    ("Cela dure une demi-heure.", "Cela dure 30 minutes.", False),
    ("1/2 of the fee is due.", "1/4 of the fee is due.", True),
    ("Open 24/7 by law.", "By law it is open 24/7.", False),
    ("We open at 14:30.", "At 2:30 am we open.", True),
    ("Vi öppnar kl. 14.30.", "Klockan 14:30 öppnar vi.", False),
    ("On ouvre à 14h30.", "L'ouverture est à 14:30.", False),
    ("It closes at 12:00.", "It closes at noon.", False),
    ("It is due on 2024-03-05.", "It is due on 5 March 2024.", False),
    ("It is due on March 5, 2024.", "On the 5th of March 2024 it is due.", False),
    ("It is due on March 5, 2024.", "On the 5th of April 2024 it is due.", True),
    ("It is due on 5-7 March.", "It is due March 5 to 7.", False),
    ("Bis zum 5. März 2024.", "Die Frist endet am 05.03.2024.", False),
    ("Avant le 5 mars 2024.", "Le 05/03/2024 au plus tard.", False),
    ("It costs $5k.", "It costs 5,000 dollars.", False),
    ("It costs $5k.", "It costs 5 dollars.", True),
    ("It costs 5 million SEK.", "It costs 5 thousand SEK.", True),
    ("Es kostet 5 Millionen Euro.", "Es kostet 5.000.000 €.", False),
    ("It is two hundred metres long.", "It is 200 m long.", False),
    ("Step 1: mix. Step 2: wait 3 minutes.", "Mix it, then wait for 3 minutes.", False),
    ("(1) Mix. (2) Wait 3 minutes.", "1. Mix.\n2. Wait 3 minutes.", False),
])
def test_numbers_in_every_way_of_writing(gold, answer, wrong):
    assert wrong_numbers(gold, answer) == wrong
