"""An answer that says no where the gold answer says yes, or the other way round.

Words can show only so much: that a denial came or went altogether. Which of two statements is denied
they do not show, and "permit-exempt" for "needs no permit" is known only where a list has it.
"""

from raft_fast.refinement.checks.bounds import turned_together
from raft_fast.refinement.checks.case import Case
from raft_fast.refinement.checks.denial import OPENING, OTHERWISE, denies

YES = frozenset({"yes", "ja", "jo", "sí", "si", "oui"})
NO = frozenset({"no", "nej", "nein", "non"})


def negation(case: Case) -> str | None:
    """A yes became a no, or words that deny came or went without others in their place."""
    gold, said = _opening(case.gold), _opening(case.answer)
    if (gold in YES and said in NO) or (gold in NO and said in YES):
        return f"begins with {said!r}, the gold answer with {gold!r}"
    if turned_together(case):
        return None
    denied_there, denied_here = denies(case.gold), denies(case.answer)
    if denied_here and not (denied_there or gold in NO or OTHERWISE.search(case.gold)):
        return f"denies ({denied_here!r}), the gold answer does not"
    if denied_there and not (denied_here or said in NO or OTHERWISE.search(case.answer)):
        return f"does not deny, the gold answer does ({denied_there!r})"
    return None


def _opening(text: str) -> str | None:
    """The yes or no that a text begins with."""
    found = OPENING.match(text)
    return (found[1] or found[2]).casefold() if found else None
