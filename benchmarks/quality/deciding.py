"""What figures allow to be said, and in which words."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from raft_fast.report.names import ENOUGH
from raft_fast.report.text import counted, short

YES, NO, UNDECIDED = "yes", "no", "undecided"
Result = dict[str, Any]


class Line(NamedTuple):
    """What is known about one method: an answer in a word, and the figures it rests on."""

    method: str
    answer: str
    evidence: str


@dataclass(frozen=True)
class Finding:
    """A question and what every method says to it; no lines where nothing was measured. `counted` says
    what a count of its yeses is of; empty where it has none."""

    question: str
    name: str
    counted: str
    lines: list[Line]


def decide(stat: Result, rows: int, more_is_better: bool) -> str:
    """What an interval allows to be said of a change."""
    if rows < ENOUGH or stat["low"] is None or stat["low"] <= 0 <= stat["high"]:
        return UNDECIDED
    return YES if (stat["low"] > 0) == more_is_better else NO


def change(stat: Result) -> str:
    """"+0.012 [−0.030, +0.050]"."""
    if stat["low"] is None:
        return short(stat["mean"], True)
    return f"{short(stat['mean'], True)} [{short(stat['low'], True)}, {short(stat['high'], True)}]"


def cells_done(found: Result) -> str:
    """"19 of 60 cells"; a grid that was stopped has compared less than its suite says."""
    done, planned = {cell["name"] for cell in found["cells"]}, set(found["planned"])
    if not planned:  # results of before they knew
        return counted(len(done), "cell")
    others = len(done - planned)
    return f"{len(done & planned)} of {counted(len(planned), 'cell')}" + (
        f" and {others} that the suite no longer has" if others else "")
