"""What stage 1 took: requests, tokens and money by part, and how often the command was started."""

from typing import Any

from raft_fast.report.stage1.tally import Tally
from raft_fast.report.text import NONE

Section = dict[str, Any]


def costs(tally: Tally, summary: Section) -> list[Section]:
    """A line for the rewriter, the fuser and every judge, and for all of them.

    Tokens are those of the replies that the decisions rest on, paid for in this start of the command
    or in an earlier one. Money is null where nobody told a price.
    """
    lines = [_line(*found) for found in _parts(tally, summary)]
    money = [line["money"] for line in lines]
    total = {"name": "all", "replies": sum(line["replies"] for line in lines),
             "prompt": sum(line["prompt"] for line in lines),
             "completion": sum(line["completion"] for line in lines),
             "money": None if None in money else sum(money)}
    return [_written(line) for line in [*lines, total]] if lines else []


def started(runs: list[Section]) -> Section | None:
    """All starts of the command together; None where none was noted down."""
    if not runs:
        return None
    return {"starts": len(runs)} | {key: sum(run.get(key) or 0 for run in runs)
                                    for key in ("seconds", "asked", "cached", "failed")}


def _parts(tally: Tally, summary: Section) -> list[tuple[str, int, Section, Section | None]]:
    """(name, replies, tokens, price) of everyone who was asked."""
    tokens, prices = summary.get("tokens") or {}, summary.get("prices") or {}
    fusions = sum(one.drawn for one in tally.rounds.values())
    found = [("rewriter", tally.rows, tokens.get("rewrite"), prices.get("rewriter")),
             ("fuser", fusions, tokens.get("fuse"), prices.get("fuser"))]
    for name, judge in (summary.get("judges") or {}).items():
        found.append((f"judge {name}", judge["scores"] + judge["failed"], judge.get("tokens"),
                      (prices.get("judges") or {}).get(name)))
    return [(name, replies, spent, price) for name, replies, spent, price in found
            if replies and spent is not None]


def _line(name: str, replies: int, spent: Section, price: Section | None) -> Section:
    money = None if price is None else sum(
        price[kind] * spent[kind] for kind in ("prompt", "completion")) / 1e6
    return {"name": name, "replies": replies, **spent, "money": money}


def _written(line: Section) -> Section:
    money = NONE
    if line["money"] is not None:
        money = f"{line['money']:,.2f}" if line["money"] >= 1 else f"{line['money']:.4f}"
    return {key: f"{told:,}" if isinstance(told, int) else told
            for key, told in line.items()} | {"money": money}
