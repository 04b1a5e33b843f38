"""Small numbers and halves that are written as words, in digits."""

import re

from raft_fast.refinement.facts.remembered import remembered
from raft_fast.refinement.facts.units import TIMES

# in English, Swedish, German, Spanish and French
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
        90: "ninety nittio neunzig noventa", 100: "cien cent",
    }.items()}
# other words too, in some language: a number that must be there or must not is spelled by none of these
UNSURE = {"once", "elf", "cent"}
DIGITS = {name: str(number) for number, names in SPELLED.items() for name in names}
WORD = re.compile(r"[^\W\d_]+")
BY_ITSELF = {"hundred", "hundra", "hundert", "thousand", "tusen", "tausend"}  # "hundra meter" is 100 m
_ONE = r"\b(?:one|an?|ett|en|uno?|une?|eine?|1)"
_AND_A_HALF = r"(?:and a half|och en halv|och ett halvt|y medi[oa]|et demie?)\b"
_HALF = r"\b(?:half an?|half|halv[ta]?|halbe[snrm]?|medi[oa]|demie?)(?:[ -]|(?=timm|år))(?:of )?"
Rules = list[tuple[re.Pattern[str], str]]
FIRST: Rules = [(re.compile(pattern, re.IGNORECASE), digits) for pattern, digits in (
    (rf"{_ONE} (?=(?:{'|'.join(BY_ITSELF)})\b)", ""),  # a hundred
    (rf"{_ONE} {_AND_A_HALF}|\b(?:anderthalb|eineinhalb)\w*", "1.5"),
    (rf"{_ONE} ([^\W\d]+) {_AND_A_HALF}", r"1.5 \1"),  # a year and a half
)]
HALVES: Rules = [(re.compile(pattern, re.IGNORECASE), digits) for pattern, digits in (
    (rf"\b(\d+) {_AND_A_HALF}", r"\1.5"),
    (r"\bzwei(?:und)?einhalb", "2.5"), (r"\bdrei(?:und)?einhalb", "3.5"),
    (rf"(?:{_ONE} )?{_HALF}", "0.5 "),
    (r"\b(?:hälften|(?:die )?hälfte|la mitad|la moitié)(?: av| der| des| de)?\b", "0.5"),
)]


@remembered
def in_digits(text: str, sure: bool = False) -> str:
    """The text with spelled numbers in digits.

    "a week" becomes "1 week", and "a house" "1 house", noon 12:00: good for forgiving a number that is
    missing elsewhere, and for nothing else. With `sure` such words stay words.
    """
    text = _apply(HALVES, _words(_apply(FIRST, text), sure=True))
    return text if sure else re.sub(r"\bnoon\b", "12:00", _words(text, sure=False))


def _apply(rules: Rules, text: str) -> str:
    for pattern, digits in rules:
        text = pattern.sub(digits, text)
    return text


def _words(text: str, sure: bool) -> str:
    def digits(word: re.Match[str]) -> str:
        name = word[0].casefold()
        if name in BY_ITSELF and not _counted(text[max(0, word.start() - 40) : word.start()]):
            return str(TIMES[name])
        if sure and (name in UNSURE or DIGITS.get(name) == "1"):
            return word[0]
        return DIGITS.get(name, word[0])

    return WORD.sub(digits, text)


def _counted(before: str) -> bool:
    """Whether a number ends here: "two hundred" is a multiple."""
    last = re.search(r"([^\W_]+)\s$", before)
    return last is not None and (last[1].isdigit() or last[1].casefold() in DIGITS)
