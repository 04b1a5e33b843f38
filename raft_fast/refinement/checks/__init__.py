"""Plain reasons why an answer cannot be used: one idea a file, each a pure function of a `Case`.

A check returns what is wrong in words, or None. How often each of them is wrong itself is measured by
`python -m benchmarks.checks`.
"""

from collections.abc import Callable

from raft_fast.refinement.checks.bounds import bounds
from raft_fast.refinement.checks.case import Case
from raft_fast.refinement.checks.copies import copy
from raft_fast.refinement.checks.duty import duty
from raft_fast.refinement.checks.facts import numbers, references
from raft_fast.refinement.checks.language import language
from raft_fast.refinement.checks.leaks import leak
from raft_fast.refinement.checks.length import length
from raft_fast.refinement.checks.loops import loops
from raft_fast.refinement.checks.marks import marks
from raft_fast.refinement.checks.negation import negation
from raft_fast.refinement.checks.refusal import refusal
from raft_fast.refinement.checks.reply import cut_off, empty, reply

Check = Callable[[Case], str | None]
Checks = dict[str, str | None]
"""Every check by name: what is wrong, or None where nothing is."""

ALWAYS: dict[str, Check] = {"reply": reply, "empty": empty}  # nothing to train on without
CHECKS: dict[str, Check] = {
    "cut_off": cut_off, "copy": copy, "length": length, "refusal": refusal, "loops": loops, "leak": leak,
    "marks": marks, "language": language, "numbers": numbers, "references": references, "negation": negation,
    "bounds": bounds, "duty": duty,
}
COMPARING = ("numbers", "references", "negation", "bounds", "duty")
"""They hold every part of two texts against the other, and are not made where one is too long for that."""

__all__ = ["ALWAYS", "CHECKS", "COMPARING", "Case", "Check", "Checks", "check"]


def check(case: Case, skip: frozenset[str] = frozenset()) -> Checks:
    """What every check that is not in `skip` says, by name; without those of COMPARING for a long text.

    Where there is no answer only `reply` or `empty` object: the others have nothing to look at.
    """
    found = {name: objects(case) for name, objects in ALWAYS.items()}
    silent = any(found.values())
    skip |= {*COMPARING} if case.too_long else set()
    return found | {name: None if silent else objects(case)
                    for name, objects in CHECKS.items() if name not in skip}
