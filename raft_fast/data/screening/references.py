"""What rows are compared with: held-out rows and the prompts of evaluation suites."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from raft_fast.data.dataset import Row
from raft_fast.data.screening.questions import question

HELDOUT = "held-out rows"


@dataclass(frozen=True)
class Reference:
    """A text that training rows must not give away: a question, its answer where there is one, and how
    screen.json names it."""

    question: str
    answer: str
    name: dict[str, Any]


def rows_as_references(rows: Iterable[Row]) -> dict[str, Sequence[Reference]]:
    """Held-out rows."""
    return {HELDOUT: [Reference(question(row), row.gold, {"suite": HELDOUT, "row_id": row.row_id})
                      for row in rows]}
