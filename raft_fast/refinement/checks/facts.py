"""Numbers with their units, and legal references: none lost, none made up."""

import re
from collections.abc import Iterable

from raft_fast.facts import quantities
from raft_fast.facts import references as references_of
from raft_fast.facts.spelled import in_digits
from raft_fast.refinement.checks.case import Case

SHOWN = 3
PLACE = re.compile(r"(\d+):(.+)")


def numbers(case: Case) -> str | None:
    """Every number of the gold answer is in the answer, every one of the answer in gold or question.

    Readings that differ by country (1.500, 5/3/2024), common conversions (cm to m, 2:30 pm to 14:30) and
    small numbers and halves written as words count as equal.
    """
    gold, said = quantities(case.gold), quantities(case.answer)
    due = gold + [one for one in quantities(in_digits(case.gold, sure=True)) if one.unit and one not in gold]
    known = gold + quantities(in_digits(case.gold)) + quantities(in_digits(case.question))
    told = said + quantities(in_digits(case.answer))
    return _difference("numbers",
                       (one.written for one in due if not any(map(one.agrees, told))),
                       (one.written for one in said if not any(map(one.agrees, known))))


def references(case: Case) -> str | None:
    """As `numbers`, for laws and places in them."""
    gold, said = _parts(case.gold), _parts(case.answer)
    return _difference("references", gold - said, said - gold - _parts(case.question))


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
