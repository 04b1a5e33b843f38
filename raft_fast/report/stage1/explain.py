"""`python -m raft_fast.refine --explain ROW_ID`: one row's story on the terminal."""

import difflib
import heapq
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from raft_fast.report.stage1.files import DECISIONS, PARTIAL_DECISIONS, parse
from raft_fast.report.text import NONE, value
from raft_fast.run.errors import UserError
from raft_fast.run.terminal import visible

Record = dict[str, Any]
WIDTH_OF_FILES = 100  # a pipe has no width of its own
NEAR, SHORTLIST = 3, 200


def explain(folder: Path, row_id: str) -> None:
    """Print the story of one row of `folder`, or of `folder`/refine where that is a training run.

    Raises UserError where there are no decisions, or none about this row.
    """
    files = decisions_of(folder)
    path, record = find(files, row_id)
    console = Console(highlight=False, markup=False, emoji=False,
                      width=None if sys.stdout.isatty() else WIDTH_OF_FILES)
    if path.name == PARTIAL_DECISIONS:
        console.print(Text(_plain(f"from {path}: that run has not come to its end")))
    elif len(files) > 1:
        console.print(Text(_plain(f"from {path}: a newer run has not come to its end, nor to this row")))
    console.print(story(record))


def decisions_of(folder: Path) -> list[Path]:
    """The files of decisions in a folder, the newest first: a run that was stopped leaves its own beside
    those of one that was finished before."""
    for place in (folder, folder / "refine"):
        if found := [place / name for name in (PARTIAL_DECISIONS, DECISIONS) if (place / name).is_file()]:
            return found
    raise UserError(f"--output_dir {folder}: holds no {DECISIONS}; name a folder that "
                    "python -m raft_fast.refine has written")


def find(files: Sequence[Path], row_id: str) -> tuple[Path, Record]:
    """(the first file with a decision about the row, the decision). Raises UserError with near matches
    where there is none."""
    for path in files:
        if (record := _found(path, row_id)) is not None:
            return path, record
    near = _near(row_id, chain.from_iterable(map(_ids, files)))
    meant = f"did you mean {', '.join(near)}?" if near else "the ids are in its lines' row_id"
    raise UserError(f"--explain {row_id}: no such row in {' and '.join(map(str, files))}; {meant}")


def _found(path: Path, row_id: str) -> Record | None:
    written = {json.dumps(row_id, ensure_ascii=escaped).encode() for escaped in (False, True)}
    with path.open("rb") as file:
        for line in file:  # parsed only where the id is in it
            if any(name in line for name in written):
                record = parse(line)
                if record and record["row_id"] == row_id:
                    return record
    return None


def story(record: Record) -> Group:
    """Question, answers, checks, rounds, the choice and its cost, in the order they came about."""
    title = record["row_id"] + (f" · {record['category']}" if record.get("category") else "")
    parts: list[Any] = [Rule(_plain(title), align="left")]
    for turn in record.get("prompt") or []:
        name = "question" if turn["role"] == "user" else turn["role"]
        parts += _text(name, turn["content"])
    parts += _text("gold answer", record.get("gold"))
    parts += _text("rewrite", record.get("rewrite"), f"similarity {value(record.get('similarity'))}")
    parts += _checks(record.get("checks") or {})
    for one in record.get("rounds") or []:
        parts += _round(one)
    parts += [Rule("chosen", align="left"),
              Text(_plain(f"{record['source']}: {record.get('why') or ''}"))]
    if record["source"] != "gold":
        parts += _text("training answer", record.get("completion"))
    parts += _likelihoods(record.get("nll") or {})
    parts += _tokens(record.get("tokens") or {})
    return Group(*parts)


def _text(name: str, text: str | None, note: str = "") -> list[Any]:
    head = Text(name, style="bold")
    if note:
        head.append(f"  {note}", style="not bold dim")
    return [head, Padding(Text(_plain(text or "(none)")), (0, 0, 1, 2))]


def _checks(checks: Record) -> list[Any]:
    """What objects; the many that do not are counted."""
    if not checks:
        return []
    objecting = {name: reason for name, reason in checks.items() if reason is not None}
    fine = f"{len(checks) - len(objecting)} of {len(checks)} checks have nothing against it"
    if not objecting:
        return [Text(fine, style="dim"), Text()]
    table = _table("check", "what it has against the answer")
    for name, reason in objecting.items():
        table.add_row(Text(_plain(name)), Text(_plain(reason), style="red"))
    return [table, Text(fine, style="dim"), Text()]


def _round(one: Record) -> list[Any]:
    found: list[Any] = [Rule(f"round {one['round']}", align="left")]
    found += _text("fusion", one.get("fused"), f"similarity {value(one.get('similarity'))}")
    found += _checks(one.get("checks") or {})
    if one.get("scores"):
        table = _table("judge", "score", "error")
        for verdict in one["scores"]:
            table.add_row(Text(_plain(verdict["judge"])), value(verdict["score"]),
                          Text(_plain(verdict["error"] or ""), style="red"))
        table.add_row(Text("mean", style="bold"), Text(value(one.get("score")), style="bold"),
                      Text(_plain(one.get("no_score") or "")))
        found += [table, Text()]
    return found


def _likelihoods(nll: Record) -> list[Any]:
    known = [f"{name} {value(nats)}" for name, nats in nll.items() if nats is not None]
    return [Text("nats a token for the rewriter: " + ", ".join(known))] if known else []


def _tokens(tokens: Record) -> list[Any]:
    spent = [f"{part} {count['prompt']:,} read, {count['completion']:,} written"
             for part, count in tokens.items() if any(count.values())]
    return [Text("tokens: " + ("; ".join(spent) or NONE))]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _plain(text: str) -> str:
    return visible(str(text))


def _ids(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for line in file:
            if record := parse(line):
                yield str(record["row_id"])


def _near(wanted: str, ids: Iterator[str]) -> list[str]:
    """The ids most like `wanted`; difflib is too slow to see all of them."""
    def alike(other: str) -> int:
        ends = _shared(wanted, other) + _shared(reversed(wanted), reversed(other))
        return ends - abs(len(wanted) - len(other))

    return difflib.get_close_matches(wanted, heapq.nlargest(SHORTLIST, ids, key=alike), n=NEAR)


def _shared(left: Iterable[str], right: Iterable[str]) -> int:
    """How many characters two texts begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
