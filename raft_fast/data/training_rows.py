"""The rows of a run: read, held out, screened; what cannot be used is set aside by name."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import (
    InMemory,
    Rejected,
    Row,
    Table,
    find_lines,
    fingerprint_rows,
    judge_bad_rows,
    only_prompts,
    read_table,
    split,
    spread,
    write_rows,
)
from raft_fast.data.screening import Reference, rows_as_references, screen
from raft_fast.run.errors import UserError
from raft_fast.run.fetch import quickstart_rows
from raft_fast.run.files import read_jsonl, write_jsonl
from raft_fast.run.folder import make_folder, pin_inputs
from raft_fast.run.options import DataOptions, Options, ScreenOptions, TrainOptions
from raft_fast.run.progress import Reporter


@dataclass(frozen=True)
class Data:
    """Rows to train on, rows held out, whether stage 1 has been over the training rows, how many there were,
    and where both came from (`heldout_source` None: held out of `source`)."""

    train: list[Row]
    heldout: list[Row]
    refined: bool
    total: int
    source: str | InMemory = ""
    heldout_source: str | InMemory | None = None


def take_rows(options: DataOptions, training: TrainOptions, run_dir: Path, reporter: Reporter,
              rows: InMemory | None = None, held: InMemory | None = None, prompts: bool = False) -> Data:
    """Read the rows, set bad ones aside, hold rows out, take the slice asked for. `rows` and `held` stand for
    --data and --heldout_data. `prompts`: rows without answers will do.

    Raises UserError where none is left to train on, or to hold out.
    """
    with reporter.phase("read rows"):
        source, apart = rows or options.data or str(quickstart_rows()), held or training.heldout_data
        try:
            table = read_table(source, options.max_bad_rows, prompts)
        except UserError as error:
            if prompts or not only_prompts(source):
                raise
            raise UserError(
                f"{source}: its rows are prompts without answers: add the column completion, or distil on "
                "the prompts alone with --recipe on_policy --sft false --teacher NAME (here: --recipe "
                f"{training.recipe} --sft {str(training.sft).lower()} --teacher {training.teacher})"
            ) from error
        train, heldout, aside = hold_out(table, source, apart, training, options, prompts)
        pin_inputs(run_dir, {"the data": fingerprint_rows([*table.rows, *heldout] if apart else table.rows)})
        chosen = spread(train, options.max_rows, options.seed)
        write_rows(heldout, run_dir / "heldout.parquet")
        write_jsonl(aside, run_dir / "rejected.jsonl")
    for note in table.notes:
        reporter.say(note)
    reporter.say(f"{len(table.rows)} rows from {source}: training on {len(chosen)}"
                 + (f" of {len(train)} (--max_rows 0 takes all)" if len(chosen) < len(train) else "")
                 + f", {len(heldout)} held out"
                 + (f" from {apart}" if apart else "") + f", {len(aside)} set aside")
    if not chosen[0].gold:
        reporter.say(f"the rows have no answers: distilling the teacher {training.teacher} on the "
                     f"prompts alone (--recipe {training.recipe} --sft false)")
    return Data(chosen, heldout, table.refined, len(train), source, apart)


def read_rows(source: str, options: DataOptions, most: int, folder: Path, reporter: Reporter,
              prompts: bool = False) -> list[Row]:
    """At most that many rows (0: all), spread over the categories; bad ones are set aside in the folder's
    rejected.jsonl. `prompts` as in `take_rows`."""
    table = read_table(source, options.max_bad_rows, prompts)
    make_folder(folder)
    if table.rejected:
        write_jsonl(table.rejected, folder / "rejected.jsonl")
    rows = spread(table.rows, most, options.seed)
    for note in table.notes:
        reporter.say(note)
    reporter.say(f"{len(rows)} of {len(table.rows)} rows from {source}, {len(table.rejected)} set aside")
    return rows


def hold_out(table: Table, source: str | InMemory, apart: str | InMemory | None, training: TrainOptions,
             options: DataOptions, prompts: bool = False) -> tuple[list[Row], list[Row], list[Rejected]]:
    """(rows to train on, rows held out, rows set aside): a share of every category, or the rows `apart`."""
    if apart is None:
        train, heldout = split(table.rows, training.heldout, options.seed)
        if not train or not heldout:
            raise UserError(f"--data {source}: {len(table.rows)} rows are too few to hold some out; at "
                            "least one category needs two")
        return train, heldout, table.rejected
    try:
        held = read_table(apart, options.max_bad_rows, prompts)
    except UserError as error:  # it speaks of --data
        raise UserError(f"--heldout_data {apart}: cannot be used ({error})") from error
    known = {_content(row) for row in held.rows}
    train = [row for row in table.rows if _content(row) not in known]
    if not train:
        raise UserError(f"--heldout_data {apart}: holds every row of --data {source}")
    among = [Rejected(str(source), None, f"row_id {row.row_id}: is held out, in {apart}")
             for row in table.rows if _content(row) in known]
    return train, held.rows, [*table.rejected, *held.rejected, *among]


def take_rendered(data: Data, chat: Any, options: Options, run_dir: Path, reporter: Reporter) -> Data:
    """The rows that the model's chat template can render; others are set aside. Raises UserError if they are
    more than --max_bad_rows allows."""
    limit = options.data.max_bad_rows
    train, refused = renderable(data.train, chat, data.source, limit, reporter)
    heldout, also = renderable(data.heldout, chat, data.heldout_source or data.source, limit, reporter)
    if refused or also:
        write_jsonl([*read_rejected(run_dir), *refused, *also], run_dir / "rejected.jsonl")
        write_rows(heldout, run_dir / "heldout.parquet")
        reporter.say(f"{len(refused) + len(also)} rows set aside; the first: {[*refused, *also][0]}")
    return replace(data, train=train, heldout=heldout)


def renderable(rows: Sequence[Row], chat: Any, source: str | InMemory, max_bad_rows: float,
               reporter: Reporter) -> tuple[list[Row], list[Rejected]]:
    """(rows of `source` that the chat template can render, the others with the reason). Raises UserError if
    more are refused than `max_bad_rows`, a share, allows."""
    taken, refused = [], {}
    with reporter.phase("render rows", len(rows), "rows") as advance:
        for row in rows:
            try:
                chat.student_prompt(row.prompt)
                if row.gold:
                    chat.sft_view(row.prompt, row.gold)
                    chat.teacher_prompt(row.prompt, row.gold)
                taken.append(row)
            except UserError as error:
                refused[row.row_id] = str(error)
            advance()
    lines = find_lines(source, refused, any(not row.gold for row in rows))
    aside = [Rejected(str(source), lines.get(row_id), why, row_id) for row_id, why in refused.items()]
    if aside:
        judge_bad_rows(source, len(taken), aside, max_bad_rows)
    return taken, aside


def _content(row: Row) -> str:
    """Question and gold answer: row ids may be line numbers, which other rows have in another file."""
    return json.dumps([row.prompt, row.gold], sort_keys=True)


def screen_rows(data: Data, options: ScreenOptions, suites: Mapping[str, Sequence[Reference]], encoder: Any,
                run_dir: Path, reporter: Reporter) -> Data:
    """Training rows that repeat each other, held-out rows or one of the `suites`, flagged in
    RUN/screen.json or dropped. Raises UserError where all are dropped."""
    references = {**rows_as_references(data.heldout), **suites}
    screened = screen(data.train, references, options, encoder, run_dir, reporter)
    if not screened.dropped:
        return data
    dropped = set(screened.dropped)
    kept = [row for place, row in enumerate(data.train) if place not in dropped]
    if not kept:
        raise UserError("--duplicates, --overlap: no row is left to train on; see screen.json in "
                        f"{run_dir}, or flag them instead")
    write_jsonl([*read_rejected(run_dir), *screened.rejected], run_dir / "rejected.jsonl")
    return replace(data, train=kept)


def read_rejected(run_dir: Path) -> list[dict]:
    """Rows that this start of the command has set aside so far."""
    return list(read_jsonl(run_dir / "rejected.jsonl", "run the same command again"))
