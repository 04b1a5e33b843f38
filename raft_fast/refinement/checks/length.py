"""An answer much shorter than the gold one left something out, a much longer one made something up."""

from raft_fast.refinement.checks.case import Case

SHORTEST, LONGEST = 0.3, 3.0
SLACK = 60  # characters: a word may become a sentence, and a sentence a word


def length(case: Case) -> str | None:
    """Characters of the answer by those of the gold answer, outside 0.3-3."""
    answer, gold = len(case.answer), len(case.gold)
    short = gold > SLACK and answer < SHORTEST * gold
    if short or answer > LONGEST * gold + SLACK:
        return f"{answer / gold:.2g} times as long as the gold answer"
    return None
