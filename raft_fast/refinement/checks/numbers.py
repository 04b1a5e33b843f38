"""Numbers with units, dates and times of day: none lost, none made up. The words are in numbers.toml."""

import re
import tomllib
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property, partial

from raft_fast.refinement.checks.forms import HERE, Case, difference, remembered

DATA = tomllib.loads((HERE / "numbers.toml").read_text(encoding="utf-8"))
UNITS, TIMES, MONTHS, SPELLED, UNSURE = (
    {name.replace("_", " "): key for key, names in DATA[section].items() for name in names.split()}
    for section in ("units", "times", "months", "spelled", "unsure"))
NAMES = {section: "(?:" + "|".join(sorted(map(re.escape, names), key=len, reverse=True)) + ")"
         for section, names in (("units", UNITS), ("times", TIMES), ("months", MONTHS))}
_compile = partial(re.compile, flags=re.IGNORECASE | re.VERBOSE | re.MULTILINE)
DATES = [_compile(text % NAMES) for text in DATA["dates"]]
TIME, NUMBER, FRACTION, RANGE, LIST_MARKER, INLINE_MARKER = (
    _compile(DATA["patterns"][name] % NAMES)
    for name in ("time", "number", "fraction", "range", "list_marker", "inline_marker"))
RULES = {when: [(re.compile(pattern, re.IGNORECASE), digits) for pattern, digits in rules]
         for when, rules in DATA["rules"].items()}
SIGNS = {ord(sign): " " + unicodedata.normalize("NFKC", sign).replace("⁄", "/") for sign in "½⅓⅔¼¾⅛⅜⅝⅞"}
WORD = re.compile(r"[^\W\d_]+")
DATE, CLOCK = "date", "clock"
CURRENCIES, UNSURE_TIMES = {"sek", "eur", "usd"}, {"k", "mil"}  # kelvin; ten Swedish kilometres
Fact = tuple[tuple[Decimal, ...], str]
"""(every reading, the likeliest first; the unit)"""


@dataclass(frozen=True)
class Quantity:
    """A number as it may be meant, its unit (one name for all, "" without one), how it is written, and where.
    A date is month * 100 + day, its year another number, a time of day the minutes since midnight."""

    values: tuple[Decimal, ...]
    unit: str
    written: str = field(compare=False)
    start: int = field(compare=False)

    def __str__(self) -> str:
        return f"{format(self.values[0].normalize(), 'f')} {self.unit}".strip()

    @cached_property
    def exact(self) -> set[tuple[str, Decimal]]:
        """What it says, in base units."""
        unit, factor = DATA["base"].get(self.unit, (self.unit, 1))
        return {(unit, value * Decimal(factor)) for value in self.values}

    @cached_property
    def vague(self) -> set[tuple[str, Decimal]]:
        """What a text says that leaves out its unit: a text may name one once for many numbers."""
        if self.unit in ("", DATE):  # the 5 of "5-7 March" has lost its month
            return {("", value % 100) for value in self.values if self.unit}
        return {("", value) for value in self.values} | {
            (shorter, value) for unit, value in self.exact for shorter in ("", unit.split("/")[0])}


def numbers(case: Case) -> str | None:
    """Every number of the gold answer is in the answer, every one of the answer in gold or question. Readings
    by country (1.500, 5/3/2024), conversions (cm to m, 2:30 pm to 14:30) and small numbers in words count."""
    return difference("numbers", _unmatched(case.gold, case.answer),
                      _unmatched(case.answer, case.gold, case.question))


def number_set(text: str) -> set[str]:
    """The numbers of a text as strings: "15000 sek", "30 m2", "4.5 m", "1998"."""
    return {str(one) for one in locate(text)}


@remembered
def _stated(text: str) -> list[Quantity]:
    """Numbers in digits, and in words before a unit."""
    return [*locate(text), *(one for one in locate(in_digits(text)) if one.unit)]


@remembered
def _known(text: str, unsure: bool) -> tuple[set[tuple[str, Decimal]], set[tuple[str, Decimal]]]:
    """(what the numbers of a text say, and what they say without a unit)."""
    found = locate(in_digits(text, unsure)) if unsure else _stated(text)
    return set().union(*(one.exact for one in found)), set().union(*(one.vague for one in found))


def _unmatched(text: str, *others: str) -> set[str]:
    """What a text states that none of the others has, be it in words that may mean something else: that is
    equal in no reading, or in a unit that contradicts."""
    left = _stated(text)
    for unsure in (False, True):
        for other in others if left else ():
            exact, vague = _known(other, unsure)
            left = [one for one in left if one.exact.isdisjoint(exact) and one.exact.isdisjoint(vague)
                    and one.vague.isdisjoint(exact)]
    return {one.written for one in left}


@remembered
def in_digits(text: str, unsure: bool = False) -> str:
    """The text with spelled numbers and halves in digits; with `unsure` "a house" is "1 house" too, which may
    excuse a number that is missing elsewhere."""
    for pattern, digits in RULES["before"]:
        text = pattern.sub(digits, text)
    text = WORD.sub(lambda word: SPELLED.get(word[0].casefold(), word[0]), text)
    for pattern, digits in RULES["after"]:
        text = pattern.sub(digits, text)
    return WORD.sub(lambda word: UNSURE.get(word[0].casefold(), word[0]), text) if unsure else text


@remembered
def locate(text: str) -> list[Quantity]:
    """Quantities of a text in order, without markers of lists. A range ("4–6 weeks") has one unit."""
    text = FRACTION.sub(_fraction, text.translate(SIGNS))
    listed = [int(number) for number in INLINE_MARKER.findall(text)]
    inline = listed[1:] and listed == [*range(1, len(listed) + 1)]
    for marker in (INLINE_MARKER, LIST_MARKER) if inline else (LIST_MARKER,):
        text = marker.sub(lambda match: " " * len(match[0]), text)
    found: list[Quantity] = []

    def take(read: Callable[[re.Match[str]], list[Fact]], match: re.Match[str]) -> str:
        facts = read(match)
        found.extend(Quantity(*fact, match[0].strip(), match.start()) for fact in facts)
        return ";" * len(match[0]) if facts else match[0]

    for pattern in DATES:
        text = pattern.sub(partial(take, _date), text)
    text = TIME.sub(partial(take, _time), text)
    unit, start = "", len(text)
    for match in reversed([*NUMBER.finditer(text)]):
        name, per = match["unit"] or match["currency"], match["per"]
        if name:
            unit = UNITS[name.lower()] + (f"/{UNITS[per.lower()]}" if per else "")
        elif not RANGE.fullmatch(text, match.end(), start):
            unit = ""
        start = match.start()
        found.append(Quantity(_values(match, unit), unit, match[0].strip(), match.start()))
    return sorted(found, key=lambda one: one.start)


def _fraction(match: re.Match[str]) -> str:
    """1/2 and 1 1/2 as decimals; thirds to four digits."""
    over, under = int(match[2]), int(match[3])
    return f"{int(match[1] or 0) + round(over / under, 4):g}" if over < under else match[0]


def _values(match: re.Match[str], unit: str) -> tuple[Decimal, ...]:
    """Every reading: 5k is 5000, a sign makes it negative, and a dash that may be a bullet either."""
    values, word = _readings(match["value"]), (match["kilo"] or match["times"] or "").lower()
    if word:
        unsure = word in UNSURE_TIMES and unit not in CURRENCIES
        values = (*(value * int(TIMES[word]) for value in values), *values * unsure)
    sign = match["minus"]
    if not (sign or match["below"] or (match["unit"] or "").lower().startswith("minus")):
        return values
    bullet = sign in ("-", "–") and not match.string[: match.start()].rpartition("\n")[2].strip()
    return (*(-value for value in values), *values * bullet)


def _readings(written: str) -> tuple[Decimal, ...]:
    """1.500 is 1.5 in English and 1500 in German; 1.234,5 and 1 234,5 are the same everywhere."""
    plain = re.sub(r"[\s'’]", "", written)
    marks, whole = re.findall("[.,]", plain), Decimal(re.sub("[.,]", "", plain))
    if not marks or (len(marks) > 1 and len({*marks}) == 1):
        return (whole,)
    decimal = whole.scaleb(plain.rindex(marks[-1]) + 1 - len(plain))
    if not re.fullmatch(r"[1-9]\d{0,2}[.,]\d{3}", written):
        return (decimal,)
    return (decimal, whole) if marks == ["."] else (whole, decimal)


def _date(match: re.Match[str]) -> list[Fact]:
    day, name = int(match["day"]), match["month"].lower()
    month = int(name if name.isdigit() else MONTHS.get(name, 5))
    either = "/" in match.groupdict().get("mark", "")  # 5/3: in March, or in May
    days = [month * 100 + day] * (month <= 12 and day <= 31)
    days += [day * 100 + month] * (either and day <= 12 and month != day)
    facts: list[Fact] = [(tuple(map(Decimal, days)), DATE), ((Decimal(match["year"] or 0),), "")]
    return facts[: 2 if match["year"] else 1] if days else []


def _time(match: re.Match[str]) -> list[Fact]:
    hour, mark, half = int(match["hour"]), match["mark"], (match["half"] or "").lower()
    plain = mark == ":" and hour > 1  # 1:50 is a scale
    if not (plain or mark == "h" or half or match["clock"] or match["told"]) or (half and hour > 12):
        return []
    minutes, noon = hour % 24 * 60 + int(match["minute"] or 0), 12 * 60
    if half:
        minutes = minutes % noon + noon * (half == "p")
    unsure = not half and mark != "h" and 0 < hour < 12 and not match["hour"].startswith("0")
    return [((Decimal(minutes), *[Decimal(minutes + noon)] * unsure), CLOCK)]
