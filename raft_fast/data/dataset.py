"""Rows in and out: every format becomes `Row`s, in memory or left on disk, and every bad row is named."""

import hashlib
import json
import os
import pickle
import random
import re
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from raft_fast.data.records import BadRowError, InMemory, records
from raft_fast.data.rows import ANSWERS, Rejected, Row, Unused, asked_alone, id_of, to_row, told
from raft_fast.run.errors import UserError
from raft_fast.run.files import DiskMap

REFINED_COLUMNS = ("row_id", "prompt", "completion", "gold", "rewrite", "fused", "source",
                   "similarity", "category")
SHOWN_REASONS = 3
ROW_GROUP = 1024  # rows of one parquet row group
TOLD_ROWS = 1000  # rows between two words about progress
DEFAULT_ID = re.compile(r"row-\d{6,}")


@dataclass(frozen=True)
class Table:
    """What a file held: rows, set-aside rows, whether stage 1 has already been over it, and lines that tell
    the user what else it holds."""

    rows: list[Row]
    rejected: list[Rejected]
    refined: bool
    notes: list[str] = field(default_factory=list)


def read_table(source: str | InMemory, max_bad_rows: float | None, prompts: bool = False) -> Table:
    """As `open_rows`, with all rows in memory. `prompts`: none of them needs an answer."""
    rows: list[Row] = []
    _, rejected, refined, notes = _read(source, max_bad_rows, rows.append,
                                        prompts=prompts and only_prompts(source))
    return Table(rows, rejected, refined, notes)


def only_prompts(source: str | InMemory) -> bool:
    """Whether the records ask and none has a column of answers; False where they cannot be read."""
    found = False
    with suppress(UserError, RecursionError):
        for _, record in records(source):
            if isinstance(record, dict) and asked_alone(record):
                found = True
            elif isinstance(record, dict) and any(name in record for name in ANSWERS):
                return False
    return found


class _Kept:
    """Rows in an unnamed temporary file, by their place: their source is parsed and checked only once."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
        self._starts = array("q", [0])

    def add(self, row: Row) -> None:
        self._starts.append(self._starts[-1] + self._file.write(pickle.dumps(tuple(vars(row).values()))))

    def flush(self) -> None:
        self._file.flush()

    def __getitem__(self, place: int) -> Row:
        start, end = self._starts[place : place + 2]
        return Row(*pickle.loads(os.pread(self._file.fileno(), end - start, start)))

    def __del__(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class RowFile(Collection[Row]):
    """Rows on disk, as often as they are gone through. In memory are where each of them begins, the rejected
    rows and, after `spread`, the places of the chosen ones."""

    source: str | InMemory
    count: int
    rejected: list[Rejected]
    refined: bool
    notes: list[str]
    kept: _Kept = field(repr=False, compare=False)
    chosen: "array[int] | range | None" = field(default=None, repr=False)

    def __len__(self) -> int:
        return self.count if self.chosen is None else len(self.chosen)

    def __contains__(self, row: object) -> bool:
        return any(row == one for one in self)

    def __iter__(self) -> Iterator[Row]:
        return (self.kept[place] for place in (range(self.count) if self.chosen is None else self.chosen))

    def spread(self, count: int, seed: int) -> "RowFile":
        """As the function `spread`, for rows on disk."""
        if count == 0 or count >= len(self):
            return self
        chosen = spread_places([row.category or "" for row in self], count, seed)
        return replace(self, chosen=array("q", sorted(chosen)))

    def shard(self, number: int, of: int) -> "RowFile":
        """Every `of`-th row, from the `number`-th (from 1) on: the shards of equal `of` are all rows."""
        places = range(self.count) if self.chosen is None else self.chosen
        return replace(self, chosen=places[number - 1 :: of])

    def without(self, dropped: Collection[int]) -> "RowFile":
        """All but those at these places, counted among the rows that are gone through."""
        if not dropped:
            return self
        gone = set(dropped)
        places = range(self.count) if self.chosen is None else self.chosen
        return replace(self, chosen=array("q", (one for at, one in enumerate(places) if at not in gone)))


def open_rows(source: str | InMemory, max_bad_rows: float | None,
              advance: Callable[[int], None] = lambda steps: None) -> RowFile:
    """The rows of a file, a `datasets` name or an object in memory. `advance` hears how many were looked at.

    Raises UserError for a missing or empty source, columns that fit no known layout, or a share of
    bad rows above `max_bad_rows`.
    """
    kept = _Kept()
    found = _read(source, max_bad_rows, kept.add, advance)
    kept.flush()
    return RowFile(source, *found, kept)


def _read(source: str | InMemory, max_bad_rows: float | None, keep: Callable[[Row], None],
          advance: Callable[[int], None] = lambda steps: None, prompts: bool = False,
          ) -> tuple[int, list[Rejected], bool, list[str]]:
    """(good rows, rejected rows, whether stage 1 has been over them, lines to tell the user)."""
    rejected: list[Rejected] = []
    notes: list[str] = []
    unused: Unused = {}
    seen, total, refined = DiskMap(), 0, True
    for total, (line, record) in enumerate(records(source, notes.append), 1):
        try:
            row = to_row(record, _default_id(line), unused, prompts)
            key = row.row_id.encode()
            if (before := seen.get(key)) is not None:
                raise BadRowError(f"row_id {row.row_id!r} stands in line {before} already")
        except (BadRowError, RecursionError) as bad:
            rejected.append(Rejected(str(source), line, str(bad), id_of(record)))
        else:
            seen[key] = line
            refined = refined and set(REFINED_COLUMNS) - {"category"} <= set(record)
            keep(row)
        if total % TOLD_ROWS == 0:
            advance(TOLD_ROWS)
    seen.close()
    advance(total % TOLD_ROWS)
    judge_bad_rows(source, total - len(rejected), rejected, max_bad_rows)
    return total - len(rejected), rejected, refined, [*notes, *told(unused)]


def find_lines(source: str | InMemory, row_ids: Collection[str], prompts: bool = False) -> dict[str, int]:
    """The lines of rows that were read before."""
    found: dict[str, int] = {}
    for line, record in records(source) if row_ids else ():
        with suppress(BadRowError, RecursionError):
            if (row_id := to_row(record, _default_id(line), prompts=prompts).row_id) in row_ids:
                found.setdefault(row_id, line)
    return found


def _default_id(line: int) -> str:
    return f"row-{line:06d}"


def is_default_id(row_id: str) -> bool:
    """Whether it reads like the row_id that a row without one gets: its line number."""
    return bool(DEFAULT_ID.fullmatch(row_id))


def at(rows: Iterable[Row], places: Iterable[int]) -> Iterator[Row]:
    """The rows at ascending places."""
    coming, after = iter(rows), 0
    for place in places:
        yield next(islice(coming, place - after, None))
        after = place + 1


def fingerprint_rows(rows: Iterable[Row]) -> str:
    """A sha256 over everything in the rows, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(vars(row), sort_keys=True).encode())
    return digest.hexdigest()


class RowWriter:
    """Rows with all refined columns into parquet, a row group at a time; renamed when whole.

    Use as a context manager: `path` appears when the block ends without an error; otherwise what
    came is left, readable, in `partial`.
    """

    def __init__(self, path: Path, partial: Path | None = None) -> None:
        message = pa.struct([("role", pa.string()), ("content", pa.string())])
        types = {"prompt": pa.list_(message), "similarity": pa.float64()}
        self._schema = pa.schema([(name, types.get(name, pa.string())) for name in REFINED_COLUMNS])
        self.path, self.partial = path, partial or path.with_suffix(".partial")
        self._file = pq.ParquetWriter(self.partial, self._schema)
        self._group: list[dict] = []

    def write(self, row: Row) -> None:
        self._group.append(vars(row))
        if len(self._group) == ROW_GROUP:
            self._flush()

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._group:
            self._flush()
        self._file.close()
        if error is None:
            self.partial.replace(self.path)

    def _flush(self) -> None:
        # how rows fall into groups depends on their order alone, so equal rows are equal bytes
        self._file.write_table(pa.Table.from_pylist(self._group, schema=self._schema))
        self._group = []


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write rows with all refined columns as parquet, atomically."""
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)


def spread(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` rows drawn evenly over the categories (0: all), in the file's order."""
    if count == 0 or count >= len(rows):
        return list(rows)
    chosen = spread_places([row.category or "" for row in rows], count, seed)
    return [row for place, row in enumerate(rows) if place in chosen]


def spread_places(categories: Sequence[str], count: int, seed: int) -> set[int]:
    """The places of `count` rows drawn evenly over their categories."""
    queues = [list(reversed(group)) for group in _shuffled_categories(categories, seed)]
    chosen: set[int] = set()
    while len(chosen) < count:
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.add(queue.pop())
    return chosen


def split(rows: Sequence[Row], heldout: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows), by category: each category with two rows has both."""
    out: set[int] = set()
    for group in _shuffled_categories([row.category or "" for row in rows], seed):
        count = min(max(round(heldout * len(group)), 1), len(group) - 1)
        out.update(group[:count])
    return ([row for place, row in enumerate(rows) if place not in out],
            [row for place, row in enumerate(rows) if place in out])


def _shuffled_categories(categories: Sequence[str], seed: int) -> list[list[int]]:
    """The places of every category's rows, shuffled; categories by name."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(categories):
        groups[name].append(place)
    for name, group in groups.items():
        random.Random(f"{seed} {name}").shuffle(group)
    return [groups[name] for name in sorted(groups)]


def judge_bad_rows(source: str | InMemory, good: int, rejected: list[Rejected], limit: float | None) -> None:
    """Raises UserError where no row is good, or more are rejected than `limit`, a share, allows (None: not
    one, of a file that --max_bad_rows is not about)."""
    total = good + len(rejected)
    reasons = "; ".join(str(bad) for bad in rejected[:SHOWN_REASONS])
    if total == 0:
        raise UserError(f"{source}: holds no rows")
    if not good:
        raise UserError(f"no row of {source} can be used: {reasons}")
    if rejected and limit is None:
        raise UserError(f"{len(rejected)} of {total} rows of {source} are bad: {reasons}: fix them")
    if limit is not None and len(rejected) > limit * total:
        fits = next(share / 100 for share in range(1, 101) if len(rejected) <= share / 100 * total)
        raise UserError(f"{len(rejected)} of {total} rows are bad, more than --max_bad_rows {limit} "
                        f"allows: {reasons}: fix them, or allow more with --max_bad_rows {fits}")
