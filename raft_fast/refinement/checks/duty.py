"""What must be done, may be done, need not be done or must not be done, and came out as another of them.

Two ways to see it. The same verb stands after the other modal ("must be paid", "may be paid"); or each text
states a single kind of duty throughout, and the two contradict each other.
"""

import re
from functools import lru_cache

from raft_fast.refinement.checks.bounds import opposed
from raft_fast.refinement.checks.case import Case
from raft_fast.refinement.checks.wording import any_of, language_of, pattern, twists
from raft_fast.refinement.facts.remembered import remembered

KINDS = ("forbidden", "optional", "permitted", "required")  # the first two hold words of the others
CONFLICTS = {frozenset(pair) for pair in (("permitted", "forbidden"), ("optional", "required"),
                                          ("optional", "forbidden"))}
"""The others depend on what is permitted or required: who "may appeal" has an appeal that "has to arrive"."""
DENIALS = {"not", "inte", "ej", "nicht", "no", "pas", "never", "aldrig"}
MODALS = ("must", "may")


def duty(case: Case) -> str | None:
    """A duty of the gold answer that is none in the answer, or the other way round."""
    return None if case.too_long else _other_modal(case) or _other_kind(case)


def _other_kind(case: Case) -> str | None:
    gold, said = kinds(case.gold), kinds(case.answer)
    if len(gold) != 1 or len(said) != 1 or frozenset({*gold, *said}) not in CONFLICTS:
        return None
    if twists(case.gold) or twists(case.answer) or opposed(case):
        return None  # "must not be below 5 m" requires, "forbidden above 5 m" permits
    (due, by), (told, here) = *gold.items(), *said.items()
    return f"{told} ({here!r}), in the gold answer {due} ({by!r})"


@remembered
def kinds(text: str) -> dict[str, str]:
    """Every kind of duty that a text states, and the first words that state it."""
    language, found = language_of(text), {}
    text = text.replace("’", "'")
    for kind in KINDS:
        phrases = pattern("duty", kind, language)
        if (match := phrases.search(text)) is not None:
            found[kind] = match[0]
            text = phrases.sub(" ; ", text)
    return found


def _other_modal(case: Case) -> str | None:
    gold, said = _verbs(case.gold), _verbs(case.answer)
    for mine, other in (MODALS, MODALS[::-1]):
        for verb, modal in gold[mine].items():
            if verb in said[other] and verb not in gold[other] and verb not in said[mine]:
                return f"{said[other][verb]} {verb!r}, in the gold answer {modal}"
    return None


@remembered
def _verbs(text: str) -> dict[str, dict[str, str]]:
    """For must and may: the two words after it -> the modal."""
    language = language_of(text)
    return {kind: {f"{one[2]} {one[3]}".lower(): one[1] for one in _modal(kind, language).finditer(text)
                   if not {one[2].lower(), one[3].lower()} & DENIALS} for kind in MODALS}


@lru_cache(maxsize=32)
def _modal(kind: str, language: str | None) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)({any_of('duty', kind, language)})\s+([^\W\d]+)\s+([^\W\d]+)", re.IGNORECASE)
