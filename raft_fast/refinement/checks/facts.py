"""Numbers with their units, and legal references: none lost, none made up."""

import re
from collections.abc import Iterable

from raft_fast.facts import quantities
from raft_fast.facts import references as references_of
from raft_fast.refinement.checks.case import WORD, Case

SHOWN = 3
# small numbers as words, in English, Swedish, German, Spanish and French
SPELLED = {
    number: frozenset(names.split()) for number, names in {
        1: "one a an single en ett ein eine einen einem einer eines un una uno une",
        2: "two both twice zweimal två båda zwei beide beiden dos ambos ambas deux",
        3: "three tre drei tres trois", 4: "four fyra vier cuatro quatre",
        5: "five fem fünf cinco cinq", 6: "six sex sechs seis",
        7: "seven sju sieben siete sept", 8: "eight åtta acht ocho huit", 9: "nine nio neun nueve neuf",
        10: "ten tio zehn diez dix", 11: "eleven elva elf once onze", 12: "twelve tolv zwölf doce douze",
        13: "thirteen tretton dreizehn trece treize", 14: "fourteen fjorton vierzehn catorce quatorze",
        15: "fifteen femton fünfzehn quince quinze", 16: "sixteen sexton sechzehn dieciséis seize",
        17: "seventeen sjutton siebzehn diecisiete", 18: "eighteen arton achtzehn dieciocho",
        19: "nineteen nitton neunzehn diecinueve", 20: "twenty tjugo zwanzig veinte vingt",
        30: "thirty trettio dreißig treinta trente", 40: "forty fyrtio vierzig cuarenta quarante",
        50: "fifty femtio fünfzig cincuenta cinquante", 60: "sixty sextio sechzig sesenta soixante",
        70: "seventy sjuttio siebzig setenta", 80: "eighty åttio achtzig ochenta",
        90: "ninety nittio neunzig noventa", 100: "hundred hundra hundert cien cent",
    }.items()}
# "once" and "a" are other words too: a number that must come back is spelled by none of these
UNSURE = {"once", "six", "elf", "cent"}
DIGITS = {name: str(number) for number, names in SPELLED.items() for name in names}
PLACE = re.compile(r"(\d+):(.+)")


def numbers(case: Case) -> str | None:
    """Every number of the gold answer is in the answer, every one of the answer in gold or question.

    Readings that differ by country (1.500), common conversions (cm to m) and small numbers written as
    words count as equal.
    """
    gold, said = quantities(case.gold), quantities(case.answer)
    due = gold + [one for one in quantities(_in_digits(case.gold, at_least=2))
                  if one.unit and one not in gold]
    known = gold + quantities(_in_digits(case.gold)) + quantities(_in_digits(case.question))
    told = said + quantities(_in_digits(case.answer))
    return _difference("numbers",
                       (one.written for one in due if not any(map(one.agrees, told))),
                       (one.written for one in said if not any(map(one.agrees, known))))


def references(case: Case) -> str | None:
    """As `numbers`, for laws and places in them."""
    gold, said = _parts(case.gold), _parts(case.answer)
    return _difference("references", gold - said, said - gold - _parts(case.question))


def _in_digits(text: str, at_least: int = 1) -> str:
    """The text with spelled numbers in digits. "a week" becomes "1 week", and "a house" "1 house": below 2
    good for forgiving a number that is missing elsewhere, and for nothing else."""
    def digits(word: re.Match[str]) -> str:
        name = word[0].casefold()
        number = DIGITS.get(name, "0")
        sure = at_least == 1 or name not in UNSURE
        return number if int(number) >= at_least and sure else word[0]

    return WORD.sub(digits, text)


def _parts(text: str) -> set[str]:
    """References with "9:27" taken apart: a text may name the chapter once for many sections."""
    parts: set[str] = set()
    for reference in references_of(text):
        place = PLACE.fullmatch(reference)
        parts |= {f"chapter {place[1]}", f"§ {place[2]}"} if place else {reference}
    return parts


def _difference(kind: str, missing: Iterable[str], added: Iterable[str]) -> str | None:
    told = [f"{what} {', '.join(sorted(set(found))[:SHOWN])}"
            for what, items in (("lacks", missing), ("adds", added)) if (found := list(items))]
    return f"{kind}: {'; '.join(told)}" if told else None
