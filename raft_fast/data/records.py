"""Raw records out of files and data sets, one at a time, with the line each stands in."""

import csv
import io
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raft_fast.run.errors import UserError, first_line, visible
from raft_fast.run.options import MEMORY
from raft_fast.run.progress import console

HUB_SECONDS = 5
LAYOUTS = (("messages",), ("prompt", "completion"), ("question", "answer"))
ALWAYS = ("row_id", "id", "category", "weight", "gold", "rewrite", "fused", "source", "similarity")
NEEDED = ("prompt and completion, question and answer, or messages; prompts alone need --recipe on_policy "
          "--sft false --teacher NAME")
COLUMNS = {*ALWAYS, *(name for layout in LAYOUTS for name in layout)}
UNREAD = object()  # the value of a column that is left in its file
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
BATCH_ROWS = 1024
LONGEST = 1 << 20  # characters of a CSV field
REREAD = 4  # times that a CSV may be read for quotes that are never closed
MORE = "has more fields than the first line names; a text with the separator in it must be in double quotes"


class BadRowError(Exception):
    """A record that is not a row; the message is the reason, and can be written."""

    def __init__(self, reason: str) -> None:
        super().__init__(writable(reason))


def writable(text: str) -> str:
    """The text with lone surrogates, which no file takes, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def names(columns: Iterable[Any]) -> str:
    """Column names for a message, shortened: a file without a header may have anything as its names."""
    shown = [visible(writable(str(name)))[:50] for name in columns]
    return ", ".join(shown[:20]) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "")


@dataclass(frozen=True)
class InMemory:
    """Rows that a caller has in memory: a `datasets.Dataset` or a list of dictionaries. `name`, of the
    argument, stands for a file's name in messages. Raises UserError for anything else."""

    name: str
    rows: Any

    def __post_init__(self) -> None:
        is_data_set = hasattr(self.rows, "select_columns") and hasattr(self.rows, "__len__")
        if not isinstance(self.rows, list | tuple) and (not is_data_set or isinstance(self.rows, dict)):
            raise UserError(f"{self.name}: must be a datasets.Dataset (one split, not streamed) or a list of "
                            f"dictionaries, is {type(self.rows).__name__}; files: RAFTConfig(data=FILE)")

    def __str__(self) -> str:
        return self.name


def records(source: str | InMemory) -> Iterator[tuple[int, Any]]:
    """(line or row number from 1, record); a record that cannot be read is its BadRowError.

    Raises UserError for a source that is missing, broken or in no known format."""
    if source == MEMORY:
        raise UserError(f"--data {source}: this run's rows were in memory: pass them to RAFTTrainer again, "
                        "or name a file")
    try:
        for line, record in _read(source):
            named = known(record) if isinstance(record, dict) else {}
            yield line, {name: record[column] for column, name in named.items()} if named else record
    except BadRowError as bad:  # of all rows
        raise UserError(f"no row of {source} can be used: {bad}") from bad
    except (OSError, ValueError, ArithmeticError, RecursionError, pa.ArrowException) as error:  # year 10000
        kind = Path(str(source)).suffix or "a data set"
        raise UserError(f"--data {source}: cannot be read as {kind}: {first_line(error)}") from error


def _read(source: str | InMemory) -> Iterator[tuple[int, Any]]:
    if isinstance(source, InMemory):
        rows = source.rows
        return enumerate(rows, 1) if isinstance(rows, list | tuple) else _of_data_set(rows)
    path = own_file(source)
    return _data_set(source) if path is None else READERS[_format(path)](path)


def own_file(source: str) -> Path | None:
    """The user's file; None if `source` is a folder that `datasets` saved, or may be a name that it knows.
    Raises UserError if it is neither."""
    path = Path(source)
    if os.path.isfile(path):  # pathlib raises for names that are too long
        if _format(path) not in READERS:
            raise UserError(f"--data {source}: unknown ending; must be .jsonl, .json, .parquet, .csv or .tsv")
        return path
    if os.path.isdir(path) and not _saved(path):
        raise UserError(f"--data {source}: is a folder; name a .jsonl, .parquet or .csv file in it")
    if not _saved(path) and (path.suffix or path.is_absolute() or source.count("/") > 1):
        raise UserError(f"--data {source}: no such file")
    return None


def _format(path: Path) -> str:
    """The file's ending, without that of a compression."""
    return Path(path.stem if path.suffix.lower() in COMPRESSED else path.name).suffix.lower()


def _saved(folder: Path) -> bool:
    return any(os.path.isfile(folder / name) for name in ("dataset_dict.json", "state.json"))


def _bytes(path: Path) -> io.BufferedReader:
    return io.BufferedReader(pa.input_stream(path, compression=COMPRESSED.get(path.suffix.lower())))


def _text(path: Path) -> io.TextIOWrapper:
    """Bytes that are not UTF-8 become lone surrogates: they cost their row."""
    return io.TextIOWrapper(_bytes(path), encoding="utf-8-sig", errors="surrogateescape", newline="")


def _value(line: bytes) -> Any:
    """The value of a line of JSON, or why it has none."""
    try:
        return json.loads(line.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        return BadRowError(f"not valid JSON: {error.msg.removesuffix(' at')} at column {error.colno}")
    except (ValueError, RecursionError) as error:  # bytes, digits or brackets
        return BadRowError(f"not valid JSON: {error}")


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with _bytes(path) as file:
        yield from ((number, _value(line)) for number, line in enumerate(file, 1) if line.strip())


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    """The elements of a list, or a value a line."""
    with _text(path) as file:
        text = file.read()
    yield from enumerate(json.loads(text), 1) if text.lstrip().startswith("[") else _jsonl(path)


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    """A row over many lines has the number of its last one, and of its first if it is bad: a quote that is
    never closed costs its own row, not those after it."""
    with _text(path) as file:
        lines = file.readlines()
    # a spreadsheet writes semicolons where the comma is a decimal one
    delimiter = "\t" if _format(path) == ".tsv" else max(",;\t", key=lines[0].count) if lines else ","
    csv.field_size_limit(LONGEST)
    header: list[str] = []
    begin, again = 0, 0  # where reading begins, lines read more than once
    while begin < len(lines):
        end = begin
        rest = map(lines.__getitem__, range(begin, len(lines)))
        reader = csv.reader(rest, delimiter=delimiter, strict=True)
        try:
            for fields in reader:
                if not header:
                    header = fields
                elif len(fields) > len(header):
                    raise csv.Error(MORE)
                elif fields:
                    yield begin + reader.line_num, dict(zip_longest(header, fields))
                end = begin + reader.line_num
            return
        except csv.Error as error:
            why = MORE if str(error) == MORE else (
                f"its double quotes do not match ({error}); one inside a quoted text is written twice")
            again += begin + reader.line_num - end - 1
            if not header or again > REREAD * max(len(lines), 1000):
                raise UserError(f"{path}, line {end + 1}: {why}") from error
            yield end + 1, BadRowError(why)
            begin = end + 1


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    with pq.ParquetFile(path) as file:
        yield from _rows(file.schema_arrow.names, lambda used: file.iter_batches(BATCH_ROWS, columns=used))


def _data_set(source: str) -> Iterator[tuple[int, Any]]:
    """The rows of a folder that `datasets` saved, or of a name that it knows."""
    import datasets
    from huggingface_hub import HfApi

    try:
        if _saved(Path(source)):
            found = datasets.load_from_disk(source)
        else:
            if not datasets.config.HF_HUB_OFFLINE:
                HfApi().dataset_info(source, timeout=HUB_SECONDS)  # one quick question before many slow ones
            found = datasets.load_dataset(source)
    except Exception as error:  # every hub client raises its own kinds
        raise UserError(f"--data {source}: no such file, and not available as a `datasets` name "
                        f"({type(error).__name__}: {first_line(error)})") from error
    if isinstance(found, dict):
        split = "train" if "train" in found or len(found) != 1 else next(iter(found))
        if split not in found:
            raise UserError(f"--data {source}: has no split train but {names(found)}; save the rows that you "
                            "mean as a file")
        if split != "train":
            console.print(f"{source} has no split train; its only one is taken: {split}", markup=False)
        found = found[split]
    yield from _of_data_set(found)


def _of_data_set(found: Any) -> Iterator[tuple[int, Any]]:
    return _rows(found.column_names,
                 lambda used: found.select_columns(used).with_format("arrow").iter(BATCH_ROWS))


def known(columns: Collection[str]) -> dict[str, str]:
    """Each column with its name as rows know it: in any case, but for names that are there exactly."""
    plain = {name: str(name).strip().casefold() for name in columns}
    return {name: other if other in COLUMNS and other not in columns else name
            for name, other in plain.items()}


def _rows(columns: list[str], read: Callable[[list[str]], Iterable[pa.RecordBatch | pa.Table]]
          ) -> Iterator[tuple[int, Any]]:
    """Rows of the columns that a row can be made of: no other column is read, whatever is in it."""
    used = [column for column, name in known(columns).items() if name in COLUMNS]
    if not used:
        raise BadRowError(f"has the columns {names(columns)}; needs {NEEDED}")
    unread = dict.fromkeys(columns, UNREAD)
    batches = (batch.to_pylist() for batch in read(used))
    yield from enumerate((unread | record for batch in batches for record in batch), 1)


READERS = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".parquet": _parquet, ".csv": _csv,
           ".tsv": _csv}
