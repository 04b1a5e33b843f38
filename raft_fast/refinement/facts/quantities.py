"""Numbers and their units, as they are written in English, Swedish, German, Spanish and French."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property

from raft_fast.refinement.facts.references import take_references
from raft_fast.refinement.facts.remembered import remembered
from raft_fast.refinement.facts.times import DATE, take_times
from raft_fast.refinement.facts.units import BASE, CURRENCIES, TIMES, UNIT_NAMES, UNSURE_TIMES

_UNIT = "|".join(sorted(map(re.escape, UNIT_NAMES), key=len, reverse=True))
_SPACES = r" \u00a0\u202f"  # plain, no-break and narrow no-break
GROUPED = re.compile(rf"[1-9]\d{{0,2}}(?:(?:[{_SPACES}]\d{{3}})+|(?:,\d{{3}})+|(?:['’]\d{{3}})+)"
                     rf"(?:\.\d+)?|[1-9]\d{{0,2}}(?:[{_SPACES}]\d{{3}})+,\d+")
POINT_GROUPED = re.compile(r"[1-9]\d{0,2}(?:\.\d{3})+,\d+|[1-9]\d{0,2}(?:\.\d{3}){2,}")  # 15.000,50
AMBIGUOUS = re.compile(r"[1-9]\d{0,2}\.\d{3}")  # 1.500 is 1.5 in English and 1500 in German
FRACTION = re.compile(rf"(?:(?P<whole>\d+)[{_SPACES}]?)?(?P<sign>[½⅓⅔¼¾⅛⅜⅝⅞])"
                      rf"|(?:(?P<plus>\d+)[{_SPACES}])?(?P<over>1/(?:[2-9]|10)|2/[357]|3/[4578]|4/5|5/[68]|7/8)"
                      r"(?![\d/]|[.,]\d)")
_FRACTION = re.sub(r"[?]P<[a-z]+>", "?:", f"(?:{FRACTION.pattern})")
_TIMES = "|".join(sorted(set(TIMES) - {"k"}, key=len, reverse=True))
NUMBER = re.compile(
    r"(?:(?P<before>\b(?:sek|eur|usd|kr)|€|\$)\s?)?"
    rf"(?<![\w.,])(?P<value>(?<!/){_FRACTION}|(?:{POINT_GROUPED.pattern})(?![\d.])|(?:{GROUPED.pattern})(?!\d)"
    r"|\d+(?:[.,]\d+)?)"
    rf"(?:(?:(?<=\d)(?P<kilo>k)|[{_SPACES}-]?(?P<times>{_TIMES}))(?!\w)(?:[{_SPACES}](?:de\s|d['’]))?)?"
    rf"(?:[{_SPACES}-]?(?P<unit>{_UNIT})(?!\w)(?:(?:/| per )(?P<per>{_UNIT})(?!\w))?|(?![^\W_]))",
    re.IGNORECASE)
RANGE = re.compile(r"\s?[-–—]\s?|\s(?:to|till|and|och|or|eller|bis|und|oder|a|y|o|à|et|ou)\s",
                   re.IGNORECASE)
_INDENT = r"^(?:[^\S\n]|[*#>-]){0,40}"
LIST_MARKER = re.compile(rf"{_INDENT}\d{{1,2}}[.)]\*{{0,2}}\s"
                         rf"|(?:{_INDENT}|(?<=[.;!?]\s))(?:step|steg|schritt|paso|étape)\s\d{{1,2}}\s?[:.)–-]",
                         re.MULTILINE | re.IGNORECASE)
INLINE_MARKER = re.compile(r"(?<![^\s(])\(?(\d{1,2})\)(?=\s)")  # 1) ... 2) ... or (1) ... (2) ...
# a sign is a dash before the number with no number, unit or word before it: not 4 -6, 2-8, C-25
MINUS = re.compile(r"(?:^|(?<![\d%°])[\s(\[:=~])[-−–‑]$|\bminus\s$|(?<!al )(?<!o )\bmenos\s$"
                   r"|(?<!au )(?<!du )\bmoins\s$", re.IGNORECASE)  # al menos: at least
BULLET = re.compile(r"(?:^|\n)[^\S\n]*[-–]$")
BELOW_ZERO = re.compile(r"\s(?:below (?:zero|freezing)|under (?:noll|null|fryspunkten)|unter null|bajo cero"
                        r"|(?:au|en)[ -]dessous de zéro)", re.IGNORECASE)


@dataclass(frozen=True)
class Quantity:
    """A number as it may be meant, its unit (canonical, "" where there is none) and how it is written."""

    values: tuple[Decimal, ...]
    unit: str
    written: str

    def __str__(self) -> str:
        return f"{format(self.values[0].normalize(), 'f')} {self.unit}".strip()

    def agrees(self, other: "Quantity") -> bool:
        """Whether both can mean the same: equal in some reading, in units that do not contradict.

        A number without a unit agrees with one that has it, "500 SEK" with "500 SEK/m2": a text may
        name a unit once for many numbers.
        """
        (mine, my_values), (their, their_values) = self._in_base, other._in_base
        if self.unit and other.unit and mine == their:
            return bool(my_values & their_values)
        shorter, longer = sorted((mine, their), key=len)
        if shorter and not longer.startswith(f"{shorter}/"):
            return False
        if (shorter, longer) == ("", DATE):  # the 5 of "5-7 March" has lost its month
            return bool(self._days & other._days)
        return bool({*self.values, *my_values} & {*other.values, *their_values})

    @cached_property
    def _in_base(self) -> tuple[str, set[Decimal]]:
        unit, factor = BASE.get(self.unit, (self.unit, Decimal(1)))
        return unit, {value * factor for value in self.values}

    @property
    def keys(self) -> set[Decimal]:
        """Two that agree have one in common."""
        return {*self.values, *self._in_base[1], *(self._days if self.unit in ("", DATE) else ())}

    @property
    def _days(self) -> set[Decimal]:
        """The days of the month that it may be."""
        return {value % 100 for value in self.values if abs(value) < 10**6}


class Agreeing:
    """Finds those of many quantities that agree with one, without going through all of them."""

    def __init__(self, quantities: Iterable[Quantity]) -> None:
        self._by_key: dict[Decimal, dict[Quantity, None]] = defaultdict(dict)
        for one in dict.fromkeys(replace(one, written="") for one in quantities):
            for key in one.keys:
                self._by_key[key][one] = None

    def has(self, wanted: Quantity) -> bool:
        """Whether any of them agrees with it."""
        return any(wanted.agrees(one) for key in wanted.keys for one in self._by_key.get(key, ()))


@dataclass(frozen=True)
class Located:
    """A quantity and where it is in the text that `locate` gives."""

    quantity: Quantity
    start: int
    end: int


def quantities(text: str) -> list[Quantity]:
    """The numbers of a text in order, each with its unit; days, years and times of day among them.

    Numbers of legal references and of list markers are not among them. In a range ("4–6 weeks") the
    unit belongs to both ends.
    """
    return [one.quantity for one in locate(text)[1]]


@remembered
def locate(text: str) -> tuple[str, tuple[Located, ...]]:
    """(the text as it was searched, its quantities in order with their places in it)."""
    searched = _without_markers(take_references(text)[1])
    times, rest = take_times(searched)
    found = [Located(Quantity(values, unit, searched[start:end].strip()), start, end)
             for values, unit, start, end in times]
    unit_of_next, start_of_next = "", len(rest)
    for match in reversed(list(NUMBER.finditer(rest))):
        unit = _unit(match)
        if not unit and RANGE.fullmatch(rest[match.end() : start_of_next]):
            unit = unit_of_next
        quantity = Quantity(_times(match, unit, _values(match["value"])), unit, match[0].strip())
        found.append(Located(_signed(quantity, match, rest), match.start(), match.end()))
        unit_of_next, start_of_next = unit, match.start()
    return searched, tuple(sorted(found, key=lambda one: one.start))


def _without_markers(text: str) -> str:
    """The text with list markers blanked, as long as before."""
    def blank(match: re.Match[str]) -> str:
        return " " * len(match[0])

    listed = [int(number) for number in INLINE_MARKER.findall(text)]
    if listed[1:] and listed == [*range(1, len(listed) + 1)]:
        text = INLINE_MARKER.sub(blank, text)
    return LIST_MARKER.sub(blank, text)


def _signed(quantity: Quantity, match: re.Match[str], text: str) -> Quantity:
    """With a minus where the text has one, in whatever form; a dash that may be a bullet is either."""
    before = text[max(0, match.start() - 12) : match.start()]
    sign = MINUS.search(before)
    if not (sign or (match["unit"] or "").lower().startswith("minus") or BELOW_ZERO.match(text, match.end())):
        return quantity
    negative = tuple(-value for value in quantity.values)
    bullet = BULLET.search(text[max(0, match.start() - 40) : match.start()]) is not None
    return replace(quantity, values=negative + quantity.values * bullet,
                   written=("-" if sign else "") + quantity.written)


def _times(match: re.Match[str], unit: str, values: tuple[Decimal, ...]) -> tuple[Decimal, ...]:
    """5 thousand and 5k as 5000."""
    word = (match["kilo"] or match["times"] or "").lower()
    if not word:
        return values
    sure = word not in UNSURE_TIMES or unit in CURRENCIES
    return tuple(value * TIMES[word] for value in values) + (() if sure else values)


def numbers(text: str) -> set[str]:
    """`quantities` as canonical strings: "15000 sek", "30 m2", "4.5 m", "1998"."""
    return {str(quantity) for quantity in quantities(text)}


def _unit(match: re.Match[str]) -> str:
    name = match["unit"] or match["before"]
    unit = UNIT_NAMES[name.lower()] if name else ""
    return f"{unit}/{UNIT_NAMES[match['per'].lower()]}" if match["per"] else unit


def _values(written: str) -> tuple[Decimal, ...]:
    """Every reading of a number, the likeliest first."""
    if fraction := FRACTION.fullmatch(written):
        return (_fraction(fraction),)
    if POINT_GROUPED.fullmatch(written):
        return (Decimal(written.replace(".", "").replace(",", ".")),)
    if GROUPED.fullmatch(written):
        plain = re.sub(rf"[{_SPACES}'’]", "", written)
        if re.search(r"\s", written):  # spaces group, so a comma is a decimal one
            return (Decimal(plain.replace(",", ".")),)
        return (Decimal(plain.replace(",", "")), *_decimal_comma(plain))
    if AMBIGUOUS.fullmatch(written):
        return Decimal(written), Decimal(written.replace(".", ""))
    return (Decimal(written.replace(",", ".")),)


def _decimal_comma(plain: str) -> tuple[Decimal, ...]:
    """1,500 read as a decimal comma."""
    return (Decimal(plain.replace(",", ".")),) if re.fullmatch(r"\d+,\d{3}", plain) else ()


def _fraction(match: re.Match[str]) -> Decimal:
    """½, 1/2, 1½ and 1 1/2; thirds to four digits."""
    over, under = (match["over"] or "0/1").split("/")
    part = unicodedata.numeric(match["sign"]) if match["sign"] else int(over) / int(under)
    return Decimal(match["whole"] or match["plus"] or 0) + Decimal(str(round(part, 4)))
