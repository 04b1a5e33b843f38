"""Facts that an answer gets right or wrong: legal references, and numbers with their units."""

from collections.abc import Set

from raft_fast.refinement.facts.quantities import Agreeing, Quantity, numbers, quantities
from raft_fast.refinement.facts.references import references

__all__ = ["Agreeing", "Quantity", "numbers", "quantities", "references", "set_f1"]

def set_f1(gold: Set[str], found: Set[str]) -> float | None:
    """F1 of two sets; None where the gold one is empty: there is nothing to agree with."""
    if not gold:
        return None
    return 2 * len(gold & found) / (len(gold) + len(found))
