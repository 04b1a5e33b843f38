"""`python -m raft_fast.refine --explain ROW_ID`: one row's candidates and the choice, on the terminal."""

import difflib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from raft_fast.refinement.candidates import Candidate, read_line
from raft_fast.report.files import DECISIONS, PARTIAL_DECISIONS, Record, parse, read_lines
from raft_fast.report.stage1 import label
from raft_fast.report.text import NONE, value
from raft_fast.run.errors import UserError
from raft_fast.run.terminal import visible

WIDTH_OF_FILES = 100  # a pipe has no width of its own
NEAR, LOOKED_AT = 3, 10_000  # ids that may be meant, out of the first rows: difflib is slow


def explain(folder: Path, row_id: str) -> None:
    """Print the story of one row of `folder`, or of `folder`/refine for a training run.

    Raises UserError if there are no decisions, or none about this row.
    """
    files = decisions_of(folder)
    path, record = find(files, row_id)
    console = Console(highlight=False, markup=False, emoji=False,
                      width=None if sys.stdout.isatty() else WIDTH_OF_FILES)
    if path.name == PARTIAL_DECISIONS:
        console.print(_plain(f"from {path}: that run is not finished"))
    elif len(files) > 1:
        console.print(_plain(f"from {path}: a newer run is not finished and has not reached this row"))
    console.print(story(record))


def decisions_of(folder: Path) -> list[Path]:
    """The files of decisions in a folder, newest first: a stopped run leaves its own beside those of an
    earlier, finished one."""
    for place in (folder, folder / "refine"):
        if found := [place / name for name in (PARTIAL_DECISIONS, DECISIONS) if (place / name).is_file()]:
            return found
    raise UserError(f"--output_dir {folder}: holds no {DECISIONS}; name a folder that "
                    "python -m raft_fast.refine has written")


def find(files: Sequence[Path], row_id: str) -> tuple[Path, Record]:
    """(the first file with a decision about the row, the decision). Raises UserError with near matches."""
    written = [json.dumps(row_id, ensure_ascii=escaped).encode() for escaped in (False, True)]
    for path in files:
        with path.open("rb") as file:
            for line in file:  # parsed only if the id is in it
                if any(name in line for name in written):
                    record = parse(line, "row_id", "source")
                    if record and record["row_id"] == row_id:
                        return path, record
    lines = chain.from_iterable(read_lines(path, "row_id", "source") for path in files)
    ids = [str(one["row_id"]) for one in islice(lines, LOOKED_AT) if one]
    near = difflib.get_close_matches(row_id, dict.fromkeys(ids), n=NEAR)
    meant = f"did you mean {', '.join(near)}?" if near else "the ids are in its lines' row_id"
    raise UserError(f"--explain {row_id}: no such row in {' and '.join(map(str, files))}; {meant}")


def story(record: Record) -> Group:
    """The question, every candidate with its scores, objections and verdicts, the choice and its cost."""
    candidates, picks = read_line(record)
    title = record["row_id"] + (f" · {record['category']}" if record.get("category") else "")
    parts: list[Any] = [Rule(_plain(title), align="left")]
    for turn in record.get("prompt") or []:
        parts += _text("question" if turn["role"] == "user" else turn["role"], turn["content"])
    for one in {id(one): one for one in (*candidates, *picks)}.values():
        parts += _candidate(one)
    chosen = ", ".join(map(label, picks)) or "nothing"
    parts += [Rule("chosen", align="left"), _plain(f"{chosen}: {record.get('why') or ''}")]
    spent = [f"{task} {count['prompt']:,} read, {count['completion']:,} written"
             for task, count in (record.get("tokens") or {}).items() if any(count.values())]
    return Group(*parts, _plain("tokens: " + ("; ".join(spent) or NONE)))


def _candidate(one: Candidate) -> Iterator[Any]:
    yield Rule(label(one), align="left")
    scores = ", ".join(f"{name} {value(score)}" for name, score in one.scores.items())
    yield from _text("answer", one.text, scores)
    if one.objections:
        refusing = {name: reason for name, reason in one.objections.items() if reason is not None}
        if refusing:
            yield _table(("check", "objection"), refusing.items())
        passed = len(one.objections) - len(refusing)
        yield Text(f"{passed} of {len(one.objections)} checks passed\n", style="dim")
    if one.verdicts:
        lines = [(said.judge, value(said.score), said.error or "") for said in one.verdicts]
        yield _table(("judge", "score", "error"), [*lines, ("mean", value(one.scores.get("judge")),
                                                             one.no_score or "")])
        yield Text()


def _text(name: str, text: str | None, note: str = "") -> list[Any]:
    head = Text(name, style="bold")
    head.append(f"  {visible(note)}", style="not bold dim")
    return [head, Padding(_plain(text or "(none)"), (0, 0, 1, 2))]


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(*map(_plain, line))
    return table


def _plain(text: str) -> Text:
    return Text(visible(str(text)))
