"""From a file to the rows of a run: read, held out, sliced, screened; bad rows are named by file and line."""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import compress, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raft_fast.data.records import BadRowError, InMemory, names, records
from raft_fast.data.rows import ANSWERS, Rejected, Row, asked_alone, id_of, to_row
from raft_fast.data.screening import Reference, rows_as_references, screen
from raft_fast.run.errors import UserError
from raft_fast.run.fetch import quickstart_rows
from raft_fast.run.files import read_jsonl, write_jsonl
from raft_fast.run.folder import make_folder, pin_inputs
from raft_fast.run.options import DataOptions, Options, ScreenOptions, TrainOptions
from raft_fast.run.progress import Reporter

REFINED_COLUMNS = ("row_id", "prompt", "completion", "gold", "rewrite", "fused", "source",
                   "similarity", "category")
TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
SCHEMA = pa.schema([(name, {"prompt": pa.list_(TURN), "similarity": pa.float64()}.get(name, pa.string()))
                    for name in REFINED_COLUMNS])
SHOWN_REASONS = 3
ROW_GROUP = 1024  # rows of one parquet row group


@dataclass(frozen=True)
class Table:
    """What a source holds: good rows, rejected rows, whether stage 1 has refined them, and what the user
    should know of the rest. `lines`: where the rows stand, by row_id."""

    source: str | InMemory
    rows: Sequence[Row]
    rejected: list[Rejected]
    refined: bool
    notes: list[str]
    lines: dict[str, int]


def read_table(source: str | InMemory, max_bad_rows: float | None, prompts: bool = False) -> Table:
    """The rows of a file, a `datasets` name or an object in memory. `prompts`: they may be prompts
    without answers.

    Raises UserError for a missing or empty source, unknown layout, or more bad rows than `max_bad_rows`."""
    rows: list[Row] = []
    rejected: list[Rejected] = []
    unused: dict[str, None] = {}
    seen: dict[str, int] = {}
    prompts, refined = prompts and only_prompts(source), True
    for line, record in records(source):
        try:
            row = to_row(record, f"row-{line:06d}", unused, prompts)
            if (before := seen.get(row.row_id)) is not None:
                raise BadRowError(f"duplicate row_id {row.row_id!r} (first seen on line {before})")
        except (BadRowError, RecursionError) as bad:
            rejected.append(Rejected(str(source), line, str(bad), id_of(record)))
        else:
            seen[row.row_id] = line
            refined = refined and set(REFINED_COLUMNS) - {"category"} <= set(record)
            rows.append(row)
    judge_bad_rows(source, len(rows), rejected, max_bad_rows)
    notes = [f"columns and message keys that are not used: {names(unused)}"] if unused else []
    return Table(source, rows, rejected, refined, notes, seen)


def only_prompts(source: str | InMemory) -> bool:
    """Whether the records ask and none has a column of answers; False if they cannot be read."""
    found = False
    with suppress(UserError, RecursionError):
        for _, record in records(source):
            if isinstance(record, dict) and asked_alone(record):
                found = True
            elif isinstance(record, dict) and any(name in record for name in ANSWERS):
                return False
    return found


def judge_bad_rows(source: str | InMemory, good: int, rejected: list[Rejected], limit: float | None) -> None:
    """Raises UserError if no row is good, or a larger share than `limit` is rejected (None: any, of a file
    that --max_bad_rows is not about)."""
    total = good + len(rejected)
    once = [*{bad.reason: bad for bad in reversed(rejected)}.values()][::-1]  # the first row of each reason
    reasons = "; ".join(map(str, once[:SHOWN_REASONS]))
    if not total:
        raise UserError(f"{source}: holds no rows")
    if not good:
        raise UserError(f"no row of {source} can be used: {reasons}")
    if len(rejected) > (limit or 0) * total:
        more = "" if limit is None else f", more than --max_bad_rows {limit} allows"
        raise UserError(f"{len(rejected)} of {total} rows of {source} are bad{more}: {reasons}")


def fingerprint_rows(rows: Iterable[Row]) -> str:
    """A sha256 over everything in the rows, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(vars(row), sort_keys=True).encode())
    return digest.hexdigest()


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write rows with all refined columns as parquet, atomically, in row groups: equal rows, equal bytes."""
    partial, left = path.with_suffix(".partial"), iter(rows)
    with pq.ParquetWriter(partial, SCHEMA) as file:
        while group := [vars(row) for row in islice(left, ROW_GROUP)]:
            file.write_table(pa.Table.from_pylist(group, schema=SCHEMA))
    partial.replace(path)


def without(rows: Sequence[Row], dropped: Iterable[int]) -> list[Row]:
    """The rows at all other places."""
    gone = set(dropped)
    return [row for place, row in enumerate(rows) if place not in gone]


def spread(rows: Sequence[Row], count: int, seed: int) -> Sequence[Row]:
    """`count` rows drawn evenly over the categories (0: all), in the file's order."""
    if not 0 < count < len(rows):
        return rows
    queues = [group[::-1] for group in _shuffled_categories(rows, seed)]
    chosen: list[int] = []
    while len(chosen) < count:
        chosen += [queue.pop() for queue in queues if queue][: count - len(chosen)]
    return [rows[place] for place in sorted(chosen)]


def split(rows: Sequence[Row], heldout: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows), by category: each category with two rows has both."""
    out: set[int] = set()
    for group in _shuffled_categories(rows, seed):
        out.update(group[: min(max(round(heldout * len(group)), 1), len(group) - 1)])
    return without(rows, out), [rows[place] for place in sorted(out)]


def _shuffled_categories(rows: Iterable[Row], seed: int) -> list[list[int]]:
    """The places of every category's rows, shuffled; categories by name."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[row.category or ""].append(place)
    for name, group in groups.items():
        random.Random(f"{seed} {name}").shuffle(group)
    return [groups[name] for name in sorted(groups)]


@dataclass(frozen=True)
class Data:
    """Rows to train on, rows held out, whether stage 1 has refined the training rows, how many there were,
    and where both came from (`heldout_source` None: held out of `source`)."""

    train: Sequence[Row]
    heldout: Sequence[Row]
    refined: bool
    total: int
    source: str | InMemory = ""
    heldout_source: str | InMemory | None = None


def take_rows(options: DataOptions, training: TrainOptions, run_dir: Path, reporter: Reporter,
              rows: InMemory | None = None, held: InMemory | None = None, prompts: bool = False) -> Data:
    """Read the rows, set bad ones aside, hold rows out, take the slice asked for. `rows` and `held` replace
    --data and --heldout_data. `prompts`: rows without answers will do.

    Raises UserError if no row is left to train on, or to hold out."""
    with reporter.phase("read rows"):
        source, apart = rows or options.data or str(quickstart_rows()), held or training.heldout_data
        table = read_table(source, options.max_bad_rows, prompts)
        train, heldout, aside = hold_out(table, apart, training, options, prompts)
        pin_inputs(run_dir, {"the data": fingerprint_rows([*table.rows, *heldout] if apart else table.rows)})
        chosen = spread(train, options.max_rows, options.seed)
        write_rows(heldout, run_dir / "heldout.parquet")
        write_jsonl(aside, run_dir / "rejected.jsonl")
    for note in table.notes:
        reporter.say(note)
    of = f" of {len(train)} (--max_rows 0 takes all)" if len(chosen) < len(train) else ""
    held_from = f" from {apart}" if apart else ""
    reporter.say(f"{len(table.rows)} rows from {source}: training on {len(chosen)}{of}, "
                 f"{len(heldout)} held out{held_from}, {len(aside)} set aside")
    if not chosen[0].gold:
        reporter.say(f"the rows have no answers: distilling the teacher {training.teacher} on the "
                     f"prompts alone (--recipe {training.recipe} --sft false)")
    return Data(chosen, heldout, table.refined, len(train), source, apart)


def read_rows(source: str, options: DataOptions, most: int, folder: Path, reporter: Reporter,
              prompts: bool = False) -> Sequence[Row]:
    """At most that many rows (0: all), spread over the categories; bad ones are set aside in the folder's
    rejected.jsonl. `prompts` as in `take_rows`."""
    table = read_table(source, options.max_bad_rows, prompts)
    make_folder(folder)
    write_jsonl(table.rejected, folder / "rejected.jsonl")
    rows = spread(table.rows, most, options.seed)
    for line in [*table.notes, f"{len(rows)} of {len(table.rows)} rows from {source}, "
                               f"{len(table.rejected)} set aside"]:
        reporter.say(line)
    return rows


def hold_out(table: Table, apart: str | InMemory | None, training: TrainOptions, options: DataOptions,
             prompts: bool = False) -> tuple[list[Row], Sequence[Row], list[Rejected]]:
    """(rows to train on, rows held out, rows set aside): a share of every category, or the rows `apart`."""
    if apart is None:
        train, heldout = split(table.rows, training.heldout, options.seed)
        if not train or not heldout:
            raise UserError(f"--data {table.source}: {len(table.rows)} rows are too few to hold some out; at "
                            "least one category needs two")
        return train, heldout, table.rejected
    try:
        held = read_table(apart, options.max_bad_rows, prompts)
    except UserError as error:  # it speaks of --data
        raise UserError(f"--heldout_data {apart}: cannot be used ({error})") from error
    # row ids may be line numbers, which other rows have in another file
    known = {json.dumps([row.prompt, row.gold]) for row in held.rows}
    twice = [json.dumps([row.prompt, row.gold]) in known for row in table.rows]
    if all(twice):
        raise UserError(f"--heldout_data {apart}: holds every row of --data {table.source}")
    among = [Rejected(str(table.source), None, f"row_id {row.row_id}: is held out, in {apart}")
             for row in compress(table.rows, twice)]
    train = [row for row, held_out in zip(table.rows, twice, strict=True) if not held_out]
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
    if not refused:
        return taken, []
    lines = read_table(source, 1.0, prompts=True).lines  # read again: it hardly ever comes to this
    aside = [Rejected(str(source), lines.get(name), why, name) for name, why in refused.items()]
    judge_bad_rows(source, len(taken), aside, max_bad_rows)
    return taken, aside


def screen_rows(data: Data, options: ScreenOptions, suites: Mapping[str, Sequence[Reference]], encoder: Any,
                run_dir: Path, reporter: Reporter) -> Data:
    """Training rows that repeat each other, held-out rows or one of the `suites`, flagged in
    RUN/screen.json or dropped. Raises UserError if all are dropped."""
    references = {**rows_as_references(data.heldout), **suites}
    dropped, rejected = screen(data.train, references, options, encoder, run_dir, reporter)
    if not dropped:
        return data
    kept = without(data.train, dropped)
    if not kept:
        raise UserError("--duplicates, --overlap: no row is left to train on; see screen.json in "
                        f"{run_dir}, or flag them instead")
    write_jsonl([*read_rejected(run_dir), *rejected], run_dir / "rejected.jsonl")
    return replace(data, train=kept)


def read_rejected(run_dir: Path) -> list[dict]:
    """Rows that this start of the command has set aside so far."""
    return list(read_jsonl(run_dir / "rejected.jsonl", "run the same command again"))
