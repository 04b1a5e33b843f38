"""A bound or a change turned round: "at least 5 m" for "at most 5 m", "rises by 5 %" for "falls by 5 %".

A direction belongs to a quantity where the text states one right beside it. What objects is the same
quantity with the opposite direction, and only where both texts state one, each a single one, in sentences
that both deny or both do not: "no permit below 15 m2" and "a permit above 15 m2" say the same.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from raft_fast.refinement.checks.case import Case
from raft_fast.refinement.checks.denial import denies_anything
from raft_fast.refinement.checks.wording import any_of, language_of
from raft_fast.refinement.facts.quantities import RANGE, Located, Quantity, locate
from raft_fast.refinement.facts.remembered import remembered
from raft_fast.refinement.facts.spelled import in_digits
from raft_fast.refinement.facts.times import DATE, TIME_OF_DAY

WORDS_BETWEEN = 5  # from "minimum" or "increases" to its number
REACH = 90  # characters left and right of a quantity that are looked at
SENTENCE = 1000  # and for a denial
SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[;\n]")
DURATIONS = {"second", "minute", "hour", "day", "week", "month", "year"}
DURING = ("under", "över", "over", "vor")  # "under 5 år" is during five years
OPPOSITE = {"low": "high", "high": "low"}


@dataclass(frozen=True)
class Bound:
    """What a text says of a quantity. `kind` is bound or change, `side` low or high, `phrase` its words,
    `around` the rest of its sentence."""

    quantity: Quantity
    kind: str
    side: str
    phrase: str
    around: str

    @property
    def denied(self) -> bool:
        return denies_anything(self.around)

    def against(self, other: "Bound") -> bool:
        """The opposite of the same quantity."""
        return (self.kind == other.kind and self.side == OPPOSITE[other.side]
                and self.quantity.agrees(other.quantity) and self.denied == other.denied)


def bounds(case: Case) -> str | None:
    """A quantity of the gold answer that the answer bounds from the other side."""
    if case.too_long:
        return None
    gold, said = bounds_of(case.gold), bounds_of(case.answer)
    for one in gold:
        rivals = [other for other in said if one.against(other)]
        if rivals and _only(one, gold) and all(_only(rival, said) for rival in rivals) \
                and not any(_same(one, other) for other in said):
            return (f"{one.phrase!r} {one.quantity.written} in the gold answer, "
                    f"{rivals[0].phrase!r} {rivals[0].quantity.written} here")
    return None


def turned_together(case: Case) -> bool:
    """Whether a bound and a denial changed together: "a permit above 15 m2", "no permit up to 15 m2"."""
    said = bounds_of(case.answer)
    return any(one.side != other.side and one.quantity.agrees(other.quantity) and one.denied != other.denied
               for one in bounds_of(case.gold) for other in said if one.kind == other.kind == "bound")


def opposed(case: Case) -> bool:
    """Whether the answer bounds a quantity from the other side, denied or not: what is allowed up to 20 % is
    forbidden above it."""
    said = bounds_of(case.answer)
    return any(one.side != other.side and one.quantity.agrees(other.quantity)
               for one in bounds_of(case.gold) for other in said if one.kind == other.kind == "bound")


def _only(one: Bound, among: list[Bound]) -> bool:
    return not any(other.kind == one.kind and other.side != one.side and other.quantity.agrees(one.quantity)
                   for other in among)


def _same(one: Bound, other: Bound) -> bool:
    return one.kind == other.kind and one.side == other.side and one.quantity.agrees(other.quantity)


@remembered
def bounds_of(text: str) -> list[Bound]:
    """Every quantity with a direction."""
    language = language_of(text)
    searched, found = locate(in_digits(text, sure=True))
    ends = [0, *(match.end() for match in SENTENCE_END.finditer(searched)), len(searched)]
    words = [match.start() for match in _any(language).finditer(searched)]
    return [bound for place, one in enumerate(found)
            if bisect_left(words, one.start - REACH) < bisect_right(words, one.end + REACH)
            and not _in_range(searched, found, place)
            for bound in _stated(searched, one, ends, language)]


def _in_range(text: str, found: Sequence[Located], place: int) -> bool:
    """Of "5 to 10 m" neither end is a bound of the kind that could be turned round."""
    pairs = zip(found[max(0, place - 1) : place + 1], found[place : place + 2], strict=False)
    return any(left is not right and RANGE.fullmatch(text[left.end : right.start]) for left, right in pairs)


def _stated(text: str, one: Located, ends: Sequence[int], language: str | None) -> Iterator[Bound]:
    """What is said of it in its sentence; of a very long one what is near."""
    start = max(ends[bisect_right(ends, one.start) - 1], one.start - SENTENCE)
    end = min(ends[min(bisect_right(ends, one.end), len(ends) - 1)], one.end + SENTENCE)
    before, after = text[max(start, one.start - REACH) : one.start], text[one.end : min(end, one.end + REACH)]
    dated = one.quantity.unit in (DATE, TIME_OF_DAY)
    for kind, searched, pattern in (
            ("bound", before, _before(language, dated)), ("bound", before, _named(language)),
            ("bound", after, _after(language)), ("change", before, _changing(language)),
            ("change", after, _changed(language))):
        if (match := pattern.search(searched)) is None:
            continue
        phrase = match["low"] or match["high"]
        if phrase.lower() in DURING and one.quantity.unit in DURATIONS:
            continue
        side = "low" if match["low"] else "high"
        turned = match.groupdict().get("not") is not None
        rest = text[start:end].replace(match[0].strip(), " ", 1)
        yield Bound(one.quantity, kind, OPPOSITE[side] if turned else side,
                    f"{match['not'].strip()} {phrase}" if turned else phrase, rest)
        return


def _sides(section: str, language: str | None) -> str:
    return "|".join(f"(?P<{side}>{any_of(section, side, language)})" for side in ("high", "low"))


@lru_cache(maxsize=32)
def _any(language: str | None) -> re.Pattern[str]:
    """Where words begin that may be a direction."""
    sides = [any_of(section, side, language) for section in ("before", "after", "named", "change")
             for side in ("low", "high")]
    return re.compile(rf"(?<![^\W\d_])(?=\w)(?={'|'.join(sides)})", re.IGNORECASE)


@lru_cache(maxsize=32)
def _before(language: str | None, dated: bool) -> re.Pattern[str]:
    filler = any_of("denial", "filler", language)
    if dated:
        filler = f"(?:{filler}|{any_of('denial', 'article', language)})"
    denial, between = any_of("denial", "words", language), any_of("denial", "between", language)
    return re.compile(rf"(?<![\w-])(?P<not>{denial}\s(?:{between}\s)*)?(?:{_sides('before', language)})"
                      rf"(?:[\s:]+{filler})*[\s:(-]*$", re.IGNORECASE)


@lru_cache(maxsize=32)
def _after(language: str | None) -> re.Pattern[str]:
    denial = any_of("denial", "words", language)
    # a number that follows is the one that is bounded: "4 m, placed at least 5 m away"
    return re.compile(rf"^[\s)]*(?:(?!{denial}\s)[^\W\d]+\s)?(?:{_sides('after', language)})(?!\w)"
                      r"(?!\s(?:\w+\s)?\d)", re.IGNORECASE)


@lru_cache(maxsize=32)
def _named(language: str | None) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{_sides('named', language)})(?:\s[^\W\d]+){{1,{WORDS_BETWEEN}}}[\s:]*$",
                      re.IGNORECASE)


@lru_cache(maxsize=32)
def _changing(language: str | None) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{_sides('change', language)})(?:\s[^\W\d]+){{0,{WORDS_BETWEEN}}}\s$",
                      re.IGNORECASE)


@lru_cache(maxsize=32)
def _changed(language: str | None) -> re.Pattern[str]:
    return re.compile(rf"^\s(?:{_sides('change', language)})(?!\w)", re.IGNORECASE)
