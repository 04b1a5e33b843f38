"""Numbers with their units, and legal references: none lost, none made up."""

import re
from collections.abc import Iterable

from raft_fast.refinement.checks.case import Case
from raft_fast.refinement.facts import Agreeing, Quantity, quantities
from raft_fast.refinement.facts import references as references_of
from raft_fast.refinement.facts.spelled import in_digits

SHOWN = 3
PLACE = re.compile(r"(\d+):(.+)")


def numbers(case: Case) -> str | None:
    """Every number of the gold answer is in the answer, every one of the answer in gold or question.

    Readings that differ by country (1.500, 5/3/2024), common conversions (cm to m, 2:30 pm to 14:30) and
    small numbers and halves written as words count as equal.
    """
    if case.too_long:
        return None
    gold, said = quantities(case.gold), quantities(case.answer)
    missing = _unmatched(_unmatched(gold + _spelled(case.gold, gold), said), case.answer)
    claimed = said + _spelled(case.answer, said)
    added = _unmatched(_unmatched(_unmatched(claimed, gold), case.gold), case.question)
    return _difference("numbers", (one.written for one in missing), (one.written for one in added))


def references(case: Case) -> str | None:
    """As `numbers`, for laws and places in them."""
    if case.too_long:
        return None
    gold, said = _parts(case.gold), _parts(case.answer)
    return _difference("references", gold - said, said - gold - _parts(case.question))


def _spelled(text: str, written: list[Quantity]) -> list[Quantity]:
    """What a text measures in words ("six weeks"), beside what it has `written` in digits."""
    known = set(written)
    return [one for one in quantities(in_digits(text, sure=True)) if one.unit and one not in known]


def _unmatched(wanted: list[Quantity], there: list[Quantity] | str) -> list[Quantity]:
    """Those that agree with none of the others; a text also has the numbers that it spells."""
    if isinstance(there, str):
        there = quantities(in_digits(there)) if wanted else []
    agreeing = Agreeing(there)
    return [one for one in wanted if not agreeing.has(one)]


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
