"""Negations, bounds ("at least 5 m"), changes ("rises by 5 %") and duties ("must") that were turned round.

Words show only so much: where they leave doubt nothing is flagged. They are in phrases/LANGUAGE.toml, and how
they combine is in meaning.toml.
"""

import re
import tomllib
from itertools import product
from typing import NamedTuple

from raft_fast.refinement.checks.forms import HERE, SPEAKERS, Case, guess_language, regex, remembered, words
from raft_fast.refinement.checks.numbers import RANGE, Quantity, agree, in_digits, locate

DATA = tomllib.loads((HERE / "meaning.toml").read_text(encoding="utf-8"))
ALIKE, STEM = 0.9, 6  # share of stems in common of texts in nearly the same words; letters of a stem
SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[;\n]")
FIRST, MARK = 0xE000, "[\ue000-\uf8ff]"  # private characters stand for a text's quantities
RANGES = re.compile(rf"{MARK}(?:(?:{RANGE.pattern}){MARK})+", RANGE.flags)
OPPOSITE = {"low": "high", "high": "low"}
DURATIONS = {"second", "minute", "hour", "day", "week", "month", "year"}
DURING = ("under", "över", "over", "vor")  # "under 5 år" is during five years
KINDS = ("forbidden", "optional", "may", "must")  # the first two hold words of the others


def negation(case: Case) -> str | None:
    """A yes became a no, words that deny came or went without others in their place, or of two texts in
    nearly the same words one has more of them."""
    openings = [regex(DATA["opening"]).match(text) for text in (case.gold, case.answer)]
    gold, said = (found.lastgroup if found else None for found in openings)
    if {gold, said} == {"yes", "no"}:
        there, here = (found[0].strip() for found in openings if found)
        return f"begins with {here!r}, the gold answer with {there!r}"
    (denied, gold_stems), (denies, stems) = map(_denials, (case.gold, case.answer))
    if len(denied) != len(denies) and _turned(case):
        return None  # "a permit above 15 m2", "no permit up to 15 m2"
    otherwise = [_otherwise(text) for text in (case.gold, case.answer)]
    if denies and not (denied or gold == "no" or otherwise[0]):
        return f"denies ({denies[0]!r}), the gold answer does not"
    if denied and not (denies or said == "no" or otherwise[1]):
        return f"does not deny, the gold answer does ({denied[0]!r})"
    alike = 2 * len(gold_stems & stems) >= ALIKE * (len(gold_stems) + len(stems))
    if alike and len(denies) != len(denied) and otherwise[0] == otherwise[1]:
        return f"denies in {len(denies)} places, the gold answer in {len(denied)}"
    return None


@remembered
def _denials(text: str) -> tuple[list[str], frozenset[str]]:
    """(words that deny, the stems of the words that carry meaning). Neither a "no" that answers the question
    nor the denial of a bound, as in "not more than 5", is one of them."""
    language, opening = guess_language(text), regex(DATA["opening"]).match(text)
    plain = regex(DATA["twisted"], language).sub(" ", in_digits(text[opening.end() :] if opening else text))
    said = words(regex(r"\b%(says.idiom)s\b").sub(" ", plain))
    denies = regex("%(says.deny)s", language).fullmatch
    return ([word for word in said if denies(word)],
            frozenset(word[:STEM] for word in said if len(word) > 2 and word not in SPEAKERS))


def _otherwise(text: str) -> bool:
    """Whether other words may deny, such as "exempt"."""
    return regex(r"\b%(says.otherwise)s").search(text) is not None


class Bound(NamedTuple):
    """A quantity from below (low) or above (high), in which words. `kind`: bound, change."""

    quantity: Quantity
    kind: str
    side: str
    phrase: str

    def sides(self, others: "list[Bound]") -> "dict[str, Bound]":
        """The sides from which others of its kind bound its quantity."""
        return {one.side: one for one in others
                if one.kind == self.kind and agree(self.quantity, one.quantity)}


def bounds(case: Case) -> str | None:
    """A quantity that the answer bounds from the other side, unless it denies more or less than the gold
    answer: "no permit below 15 m2" and "a permit above 15 m2" say the same."""
    if not (turned := _turned(case)):
        return None
    there, here = turned
    denied = [(len(_denials(text)[0]), _otherwise(text.replace(one.phrase, "")))
              for text, one in ((case.gold, there), (case.answer, here))]
    return (f"{there.phrase!r} {there.quantity.written} in the gold answer, {here.phrase!r} "
            f"{here.quantity.written} here") if denied[0] == denied[1] else None


def _turned(case: Case) -> tuple[Bound, Bound] | None:
    """The first quantity that each text bounds from one side, and not from the same one."""
    gold, said = bounds_of(case.gold), bounds_of(case.answer)
    for one in gold:
        here = one.sides(said)
        if [*here] == [OPPOSITE[one.side]] and [*one.sides(gold)] == [one.side]:
            return one, here[OPPOSITE[one.side]]
    return None


@remembered
def bounds_of(text: str) -> list[Bound]:
    """Every quantity with a direction."""
    language, stated = guess_language(text), dict[int, Bound]()
    text, found = locate(in_digits(re.sub(MARK, " ", text)))
    first_at = {one.start: place for place, one in reversed([*enumerate(found)])}  # a date's year is left out
    for place in first_at.values():  # from the last
        text = f"{text[: found[place].start]}{chr(FIRST + place)}{text[found[place].end :]}"
    templates = [(kind, one) for kind, templates in DATA["stated"].items() for one in templates]
    for sentence in SENTENCE_END.split(RANGES.sub(" ", text)):
        for kind, template in templates if re.search(MARK, sentence) else ():
            for match in regex(template, language).finditer(sentence):
                place = ord(match["of"]) - FIRST
                phrase, side = match["low"] or match["high"], "low" if match["low"] else "high"
                if phrase.lower() in DURING and found[place].unit in DURATIONS:
                    continue
                if denial := match.groupdict().get("not"):
                    phrase, side = f"{denial.strip()} {phrase}", OPPOSITE[side]
                stated.setdefault(place, Bound(found[place], kind, side, phrase))
    return [*stated.values()]


def duty(case: Case) -> str | None:
    """The same words follow, or precede, another kind of duty. What need not be done may be done."""
    said = _duties(case.answer)
    for about, there in _duties(case.gold).items():
        here = said.get(about, {})
        for kind, other in product(there, here) if about and not there.keys() & here.keys() else ():
            if {kind, other} != {"may", "optional"}:
                return f"{here[other]} {about!r}, in the gold answer {there[kind]}"
    return None


@remembered
def _duties(text: str) -> dict[str, dict[str, str]]:
    """The two words after each duty, or before it at a clause's end -> its kinds, and the words for them."""
    language, found = guess_language(text), dict[str, dict[str, str]]()

    def note(match: re.Match[str]) -> str:
        about = (match["after"].strip() or match["before"].strip()).lower()
        found.setdefault(" ".join(about.split()), {})[kind] = match["phrase"]
        return f"{match['before']} ; "

    text = text.replace("’", "'")
    for kind in KINDS:
        text = regex(DATA["duty"].format(kind), language).sub(note, text)
    return found
