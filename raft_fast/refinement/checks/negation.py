"""An answer that says no where the gold answer says yes, or the other way round.

Words can show only so much: that denial came or went altogether, and, of clauses in nearly the same words,
that one denies what the other says. "Permit-exempt" for "needs no permit" is known only where a list has it.
"""

from raft_fast.refinement.checks.bounds import turned_together
from raft_fast.refinement.checks.case import Case
from raft_fast.refinement.checks.clauses import contradicted
from raft_fast.refinement.checks.denial import OPENING, OTHERWISE, denies

YES = frozenset({"yes", "ja", "jo", "sí", "si", "oui"})
NO = frozenset({"no", "nej", "nein", "non"})


def negation(case: Case) -> str | None:
    """A yes became a no, words that deny came or went without others in their place, or a clause lost or got
    one."""
    if case.too_long:
        return None
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
    if denied_there and (clause := contradicted(case.gold, case.answer)):
        return f"says what the gold answer denies: {clause.text!r}"
    if denied_here and (clause := contradicted(case.answer, case.gold)):
        return f"denies what the gold answer says: {clause.text!r}"
    return None


def _opening(text: str) -> str | None:
    """The yes or no that a text begins with."""
    found = OPENING.match(text)
    return (found[1] or found[2]).casefold() if found else None
