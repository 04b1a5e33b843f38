"""Negations, bounds ("at least 5 m"), changes ("rises by 5 %") and duties ("must") that were turned round.

Words show only so much: where they leave doubt nothing is flagged. They are in phrases/LANGUAGE.toml.
"""

import re
from dataclasses import dataclass, field

from raft_fast.refinement.checks.case import Case, remembered, words
from raft_fast.refinement.checks.numbers import RANGE, Quantity, agree, in_digits, locate
from raft_fast.refinement.checks.wording import SPEAKERS, guess_language, regex

ALIKE, STEM = 0.9, 6  # share of stems in common of texts in nearly the same words; letters of a stem
OPENING = r"\W*(?:(?P<yes>%(says.yes)s)|(?P<no>%(says.no)s))(?![\w-])"
TWISTED = (r"(?<!\w)(?:%(denial.words)s\s(?:%(denial.between)s\s)*"  # "must not exceed 5 m" denies nothing
           r"(?=(?:%(before.high)s|%(before.low)s)(?:\s\w+){0,2}[\s:]+\d)|%(denial.twisted)s(?!\w))")
SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[;\n]")
FIRST, MARK = 0xE000, "[\ue000-\uf8ff]"  # private characters stand for a text's quantities
RANGES = re.compile(rf"{MARK}(?:(?:{RANGE.pattern}){MARK})+", RANGE.flags)
OPPOSITE = {"low": "high", "high": "low"}
DURATIONS = {"second", "minute", "hour", "day", "week", "month", "year"}
DURING = ("under", "över", "over", "vor")  # "under 5 år" is during five years
SIDES = "(?:(?P<high>%({0}.high)s)|(?P<low>%({0}.low)s))"
STATED = (  # (kind, words of it before or after their quantity)
    ("bound", r"(?<![\w-])(?P<not>%(denial.words)s\s(?:%(denial.between)s\s)*)?" + SIDES.format("before")
     + rf"(?:[\s:]+%(denial.filler)s)*[\s:(-]*(?P<of>{MARK})"),
    ("bound", rf"(?<!\w){SIDES.format('named')}(?:\s[^\W\d]+){{1,5}}[\s:]*(?P<of>{MARK})"),
    # a number that follows is the one that is bounded: "4 m, placed at least 5 m away"
    ("bound", rf"(?P<of>{MARK})[\s)]*(?:(?!%(denial.words)s\s)[^\W\d]+\s)?{SIDES.format('after')}(?!\w)"
              rf"(?!\s(?:\w+\s)?{MARK})"),
    ("change", rf"(?<!\w){SIDES.format('change')}(?:\s[^\W\d]+){{0,5}}\s(?P<of>{MARK})"),
    ("change", rf"(?P<of>{MARK})\s{SIDES.format('change')}(?!\w)"),
)
KINDS = ("forbidden", "optional", "permitted", "required")  # the first two hold words of the others
CONFLICTS = ({"permitted", "forbidden"}, {"optional", "required"}, {"optional", "forbidden"})
MODAL = (r"(?<!\w)(%(duty.{})s)\s+((?!%(denial.words)s\s)[^\W\d]+\s+(?!%(denial.words)s(?!\w))[^\W\d]+)")


def negation(case: Case) -> str | None:
    """A yes became a no, words that deny came or went without others in their place, or of two texts in
    nearly the same words one has more of them."""
    openings = [regex(OPENING).match(text) for text in (case.gold, case.answer)]
    gold, said = (found.lastgroup if found else None for found in openings)
    if {gold, said} == {"yes", "no"}:
        there, here = (found[0].strip() for found in openings if found)
        return f"begins with {here!r}, the gold answer with {there!r}"
    if any(one.denied != other.denied for one, other in _opposed(case)):
        return None  # "a permit above 15 m2", "no permit up to 15 m2"
    (denied, gold_stems), (denies, stems) = map(_denials, (case.gold, case.answer))
    otherwise = [_denied_otherwise(text) for text in (case.gold, case.answer)]
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
    language, opening = guess_language(text), regex(OPENING).match(text)
    plain = regex(TWISTED, language).sub(" ", in_digits(text[opening.end() :] if opening else text))
    said = words(regex(r"\b%(says.idiom)s\b").sub(" ", plain))
    denies = regex("%(says.deny)s", guess_language(text)).fullmatch
    return ([word for word in said if denies(word)],
            frozenset(word[:STEM] for word in said if len(word) > 2 and word not in SPEAKERS))


def _denied_otherwise(text: str) -> bool:
    """Whether other words may deny, such as "exempt"."""
    return regex(r"\b%(says.otherwise)s").search(text) is not None


@dataclass(frozen=True)
class Bound:
    """A quantity from below (low) or above (high), and the rest of its sentence. `kind`: bound, change."""

    quantity: Quantity
    kind: str
    side: str
    phrase: str = field(compare=False)
    around: str = field(compare=False)

    @property
    def denied(self) -> bool:
        return bool(_denials(self.around)[0]) or _denied_otherwise(self.around)

    def sides(self, others: "list[Bound]") -> "dict[str, Bound]":
        """The sides from which others of its kind bound its quantity."""
        return {one.side: one for one in others
                if one.kind == self.kind and agree(self.quantity, one.quantity)}


def bounds(case: Case) -> str | None:
    """A quantity that the answer bounds from the other side, in a sentence that denies as the gold answer's
    does: "no permit below 15 m2" and "a permit above 15 m2" say the same."""
    gold, said = bounds_of(case.gold), bounds_of(case.answer)
    for one in gold:
        here = one.sides(said)
        if [*here] == [OPPOSITE[one.side]] and [*one.sides(gold)] == [one.side]:
            (other,) = here.values()
            if other.denied == one.denied:
                return (f"{one.phrase!r} {one.quantity.written} in the gold answer, "
                        f"{other.phrase!r} {other.quantity.written} here")
    return None


def _opposed(case: Case) -> list[tuple[Bound, Bound]]:
    """Bounds of the gold answer, each with one of the answer from the other side."""
    said = bounds_of(case.answer)
    return [(one, other) for one in bounds_of(case.gold) if one.kind == "bound"
            for side, other in one.sides(said).items() if side != one.side]


@remembered
def bounds_of(text: str) -> list[Bound]:
    """Every quantity with a direction."""
    language, stated = guess_language(text), dict[int, Bound]()
    text, found = locate(in_digits(re.sub(MARK, " ", text)))
    first_at = {one.start: place for place, one in reversed([*enumerate(found)])}  # a date's year is left out
    for place in first_at.values():  # from the last
        text = f"{text[: found[place].start]}{chr(FIRST + place)}{text[found[place].end :]}"
    for sentence in SENTENCE_END.split(RANGES.sub(" ", text)):
        for kind, template in STATED if re.search(MARK, sentence) else ():
            for match in regex(template, language).finditer(sentence):
                place = ord(match["of"]) - FIRST
                phrase, side = match["low"] or match["high"], "low" if match["low"] else "high"
                if phrase.lower() in DURING and found[place].unit in DURATIONS:
                    continue
                if denial := match.groupdict().get("not"):
                    phrase, side = f"{denial.strip()} {phrase}", OPPOSITE[side]
                around = f"{sentence[: match.start()]} {sentence[match.end() :]}"
                stated.setdefault(place, Bound(found[place], kind, side, phrase, around))
    return list(dict.fromkeys(stated.values()))


def duty(case: Case) -> str | None:
    """The same verb follows the other modal, or each text states one kind of duty and the two conflict."""
    gold, said = _modals(case.gold), _modals(case.answer)
    for mine, other in (("must", "may"), ("may", "must")):
        for verb, modal in gold[mine].items():
            if verb in said[other] and verb not in gold[other] and verb not in said[mine]:
                return f"{said[other][verb]} {verb!r}, in the gold answer {modal}"
    there, here = duties(case.gold), duties(case.answer)
    if len(there) != 1 or len(here) != 1 or {*there, *here} not in CONFLICTS or _opposed(case) or any(
            regex(TWISTED, guess_language(one)).search(in_digits(one)) for one in (case.gold, case.answer)):
        return None  # "must not be below 5 m" requires, "forbidden above 5 m" permits
    (kind, phrase), (told, by) = *there.items(), *here.items()
    return f"{told} ({by!r}), in the gold answer {kind} ({phrase!r})"


@remembered
def duties(text: str) -> dict[str, str]:
    """Every kind of duty that a text states, and the first words that state it."""
    language, found, text = guess_language(text), {}, text.replace("’", "'")
    for kind in KINDS:
        stating = regex(rf"(?<!\w)(?=\w)%(duty.{kind})s(?!\w)", language)
        if match := stating.search(text):
            found[kind], text = match[0], stating.sub(" ; ", text)
    return found


@remembered
def _modals(text: str) -> dict[str, dict[str, str]]:
    """For must and may: the two words after it -> the modal."""
    language = guess_language(text)
    return {kind: {one[2].lower(): one[1] for one in regex(MODAL.format(kind), language).finditer(text)}
            for kind in ("must", "may")}
