"""Numbers and their units, as they are written in English, Swedish, German, Spanish and French."""

import re
from dataclasses import dataclass
from decimal import Decimal

from raft_fast.facts.references import take_references
from raft_fast.facts.units import BASE, UNIT_NAMES

_UNIT = "|".join(sorted(map(re.escape, UNIT_NAMES), key=len, reverse=True))
_SPACES = r" \u00a0\u202f"  # plain, no-break and narrow no-break
GROUPED = re.compile(rf"[1-9]\d{{0,2}}(?:(?:[{_SPACES}]\d{{3}})+|(?:,\d{{3}})+|(?:['’]\d{{3}})+)"
                     rf"(?:\.\d+)?|[1-9]\d{{0,2}}(?:[{_SPACES}]\d{{3}})+,\d+")
POINT_GROUPED = re.compile(r"[1-9]\d{0,2}(?:\.\d{3})+,\d+|[1-9]\d{0,2}(?:\.\d{3}){2,}")  # 15.000,50
AMBIGUOUS = re.compile(r"[1-9]\d{0,2}\.\d{3}")  # 1.500 is 1.5 in English and 1500 in German
NUMBER = re.compile(
    r"(?:(?P<before>\b(?:sek|eur|usd|kr)|€|\$)\s?)?"
    rf"(?<![\w.,])(?P<value>(?:{POINT_GROUPED.pattern})(?![\d.])|(?:{GROUPED.pattern})(?!\d)"
    r"|\d+(?:[.,]\d+)?)"
    rf"(?:[{_SPACES}-]?(?P<unit>{_UNIT})(?!\w)(?:(?:/| per )(?P<per>{_UNIT})(?!\w))?|(?![^\W_]))",
    re.IGNORECASE)
RANGE = re.compile(r"\s?[-–—]\s?|\s(?:to|till|and|och|or|eller|bis|und|oder|a|y|o|à|et|ou)\s",
                   re.IGNORECASE)
LIST_MARKER = re.compile(r"^[\s*#>-]*\d{1,2}[.)]\*{0,2}\s", re.MULTILINE)


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
        (mine, my_values), (their, their_values) = self._in_base(), other._in_base()
        if mine == their:
            return bool(my_values & their_values)
        shorter, longer = sorted((mine, their), key=len)
        if shorter and not longer.startswith(f"{shorter}/"):
            return False
        return bool({*self.values, *my_values} & {*other.values, *their_values})

    def _in_base(self) -> tuple[str, set[Decimal]]:
        unit, factor = BASE.get(self.unit, (self.unit, Decimal(1)))
        return unit, {value * factor for value in self.values}


def quantities(text: str) -> list[Quantity]:
    """The numbers of a text in order, each with its unit.

    Numbers of legal references and of list markers are not among them. In a range ("4–6 weeks") the
    unit belongs to both ends.
    """
    rest = LIST_MARKER.sub(" ", take_references(text)[1])
    found: list[Quantity] = []
    unit_of_next, start_of_next = "", len(rest)
    for match in reversed(list(NUMBER.finditer(rest))):
        unit = _unit(match)
        if not unit and RANGE.fullmatch(rest[match.end() : start_of_next]):
            unit = unit_of_next
        found.append(Quantity(_values(match["value"]), unit, match[0].strip()))
        unit_of_next, start_of_next = unit, match.start()
    return found[::-1]


def numbers(text: str) -> set[str]:
    """`quantities` as canonical strings: "15000 sek", "30 m2", "4.5 m", "1998"."""
    return {str(quantity) for quantity in quantities(text)}


def _unit(match: re.Match[str]) -> str:
    name = match["unit"] or match["before"]
    unit = UNIT_NAMES[name.lower()] if name else ""
    return f"{unit}/{UNIT_NAMES[match['per'].lower()]}" if match["per"] else unit


def _values(written: str) -> tuple[Decimal, ...]:
    """Every reading of a number, the likeliest first."""
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
