"""Facts that an answer gets right or wrong: legal references, and numbers with their units."""

import re
import unicodedata
from collections.abc import Set

from raft_fast.facts.quantities import Agreeing, Quantity, numbers, quantities
from raft_fast.facts.references import references

__all__ = ["Agreeing", "Quantity", "letters", "numbers", "quantities", "references", "set_f1"]

# marks that combine are sorted, a run of them in time of its square; Unicode's stream-safe texts have 30
MARKS = re.compile(r"([^\w\s]{30})[^\w\s]+")


def letters(text: str) -> str:
    """The text in Unicode's compatibility form and without case, for comparing words."""
    return unicodedata.normalize("NFKC", MARKS.sub(r"\1", text)).casefold()


def set_f1(gold: Set[str], found: Set[str]) -> float | None:
    """F1 of two sets; None where the gold one is empty: there is nothing to agree with."""
    if not gold:
        return None
    return 2 * len(gold & found) / (len(gold) + len(found))
