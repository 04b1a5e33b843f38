"""Raw records out of files and data sets, one at a time, with the line each stands in."""

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raft_fast.data.separated import LONGEST, separated
from raft_fast.run.errors import UserError, first_line
from raft_fast.run.options import MEMORY
from raft_fast.run.terminal import visible

HUB_SECONDS = 5
LAYOUTS = (("messages",), ("prompt", "completion"), ("question", "answer"))
ALWAYS = ("row_id", "id", "category", "weight", "gold", "rewrite", "fused", "source", "similarity")
COLUMNS = {*ALWAYS, *(name for layout in LAYOUTS for name in layout)}
UNREAD = object()  # the value of a column that is left in its file
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
BATCH_ROWS = 1024
PIECE = 1 << 16  # characters of a JSON list that are looked at together
MARKS = re.compile(r'(?:\\.)+|["\[\]{},]', re.DOTALL)


class BadRowError(ValueError):
    """A record that is no row; the message is the reason, and can be written."""

    def __init__(self, reason: str) -> None:
        super().__init__(writable(reason))


def writable(text: str) -> str:
    """The text with halves of characters written out, which no file takes."""
    return text.encode("utf-8", "backslashreplace").decode()


class Doubled(dict[str, Any]):
    """An object of JSON with keys that stand in it twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return made if len(made := dict(pairs)) == len(pairs) else Doubled(pairs)


from_json = json.JSONDecoder(object_pairs_hook=_object).decode


def names(columns: Iterable[Any]) -> str:
    """Column names for a message, shortened: a file without a header may have anything as its names."""
    told = [visible(writable(str(name)))[:50] for name in columns]
    return ", ".join(told[:20]) + (f" and {len(told) - 20} more" if len(told) > 20 else "")


@dataclass(frozen=True)
class InMemory:
    """Rows that a caller has in memory: a `datasets.Dataset` or a list of dictionaries. `name`, of the
    argument, stands for a file's name in messages. Raises UserError for anything else."""

    name: str
    rows: Any

    def __post_init__(self) -> None:
        is_data_set = hasattr(self.rows, "select_columns") and hasattr(self.rows, "__len__")
        if isinstance(self.rows, list | tuple) or (is_data_set and not isinstance(self.rows, dict)):
            return
        how = (f"one of its splits, as in {self.name}=dataset[{next(iter(self.rows), 'train')!r}]"
               if isinstance(self.rows, dict) else "loaded without streaming=True"
               if hasattr(self.rows, "select_columns") else "RAFTConfig(data=FILE) takes a file's name"
               if isinstance(self.rows, str | Path) else "Dataset.from_pandas makes one of a table")
        raise UserError(f"{self.name}: must be a datasets.Dataset or a list of dictionaries, is "
                        f"{type(self.rows).__name__} ({how})")

    def __str__(self) -> str:
        return self.name

    def records(self) -> Iterator[tuple[int, Any]]:
        """As the function `records`."""
        if isinstance(self.rows, list | tuple):
            yield from enumerate(map(_named, self.rows), 1)
        else:
            yield from _of_data_set(self.rows, self.name)


def records(source: str | InMemory,
            note: Callable[[str], None] = lambda line: None) -> Iterator[tuple[int, Any]]:
    """(line or row number from 1, record); a record that cannot be read is its BadRowError.

    `note` hears what the user should know about the source. Raises UserError for a source that is missing,
    broken or in no known format.
    """
    if isinstance(source, InMemory):
        yield from source.records()
        return
    if source == MEMORY:
        raise UserError(f"--data {source}: this run's rows were in memory: pass them to RAFTTrainer again, "
                        "or name a file")
    try:
        if (path := own_file(source)) is None:
            yield from _data_set(source, note)
        else:
            yield from READERS[_format(path)](path)
    except PermissionError as error:
        raise UserError(f"--data {source}: may not be read (permission denied)") from error
    except (OSError, UnicodeError, pa.ArrowException) as error:
        kind = Path(source).suffix or "a data set"
        raise UserError(f"--data {source}: cannot be read as {kind}: {first_line(error)}") from error


def own_file(source: str) -> Path | None:
    """The user's file; None where `source` is a folder that `datasets` saved, or may be a name that it knows.
    Raises UserError where it is neither."""
    path = Path(source)
    try:
        if path.is_dir():
            if _saved(path):
                return None
            raise UserError(f"--data {source}: is a folder; name a .jsonl, .parquet or .csv file in it")
        is_file = path.is_file()
    except OSError as error:
        raise UserError(f"--data {source[:100]}: cannot be read ({error.strerror})") from error
    if is_file:
        if _format(path) not in READERS:
            raise UserError(f"--data {source}: unknown ending; must be .jsonl, .json, .parquet, .csv or .tsv")
        return path
    if path.suffix or path.is_absolute() or source.count("/") > 1:
        raise UserError(f"--data {source}: no such file")
    return None


def _format(path: Path) -> str:
    """The file's ending, without that of a compression."""
    return Path(path.stem if path.suffix.lower() in COMPRESSED else path.name).suffix.lower()


def _saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _bytes(path: Path) -> Any:
    if how := COMPRESSED.get(path.suffix.lower()):
        return io.BufferedReader(pa.input_stream(path, compression=how))
    return path.open("rb")


def _text(path: Path) -> io.TextIOWrapper:
    """Bytes that are no UTF-8 become halves of characters: they cost their row."""
    return io.TextIOWrapper(_bytes(path), encoding="utf-8-sig", errors="surrogateescape", newline="")


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with _bytes(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, _value(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                yield number, BadRowError(f"not UTF-8 at byte {error.start}")
            except json.JSONDecodeError as error:
                yield number, BadRowError(_not_json(error))


def _value(text: str) -> Any:
    """The value of a text that is JSON, or why it cannot be had. Raises JSONDecodeError for any other."""
    try:
        value = from_json(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        return BadRowError("is nested too deeply")
    except ValueError:
        return BadRowError("holds a whole number of too many digits")
    return _named(value)


def _named(value: Any) -> Any:
    """An object with its columns named as rows know them; anything else as it is."""
    if not isinstance(value, dict):
        return value
    columns = _known([*value, *getattr(value, "twice", ())])
    if bad := _twice(columns):
        return BadRowError(bad)
    return dict(zip(columns, value.values(), strict=False))  # keys that stand twice come after the others


def _not_json(error: json.JSONDecodeError) -> str:
    return f"not valid JSON: {error.msg.removesuffix(' at')} at column {error.colno}"


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    """The elements of a list, one object over many lines, or a value a line."""
    with _text(path) as file:
        piece = file.read(PIECE)
        first = piece.lstrip().partition("\n")[0].rstrip()
        if first.startswith("["):
            yield from enumerate(_elements(piece, file, path), 1)
            return
        if first.startswith("{") and not first.endswith("}"):
            with suppress(json.JSONDecodeError):
                if isinstance(whole := _value(piece + file.read(LONGEST)), dict):
                    yield 1, whole
                    return
    yield from _jsonl(path)


def _elements(piece: str, file: io.TextIOWrapper, path: Path) -> Iterator[Any]:
    """The values in a JSON list, without the whole of it in memory: cut at the commas between them."""
    depth, quoted, parts, count = 0, False, [""], 0
    while piece:
        while piece.endswith("\\") and (more := file.read(1)):
            piece += more
        start = 0
        for found in MARKS.finditer(piece):
            mark = found[0]
            if mark == '"':
                quoted = not quoted
            elif quoted or mark[0] == "\\":
                continue
            elif mark in "[{":
                depth += 1
                start = found.end() if depth == 1 else start
            else:
                if depth == 1:
                    text, start = "".join([*parts, piece[start : found.start()]]), found.end()
                    parts.clear()
                    if text.strip():
                        count += 1
                        try:
                            yield _value(text)
                        except json.JSONDecodeError as error:  # where the next row begins is not known
                            raise UserError(f"{path}, row {count} of its list: {_not_json(error)}") from error
                depth -= mark != ","
        parts.append(piece[start:])
        piece = file.read(PIECE)
    if depth or "".join(parts).strip():
        raise UserError(f"{path}, row {count + 1} of its list: not valid JSON: a quote or bracket is open")


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with _text(path) as file:
        rows = separated(file, "\t" if _format(path) == ".tsv" else None)
        line, first = next(rows, (1, []))
        header = [_plain_name(field) for field in first]
        if bad := first if isinstance(first, str) else _twice(header):
            raise UserError(f"{path}, line {line}: {bad}")
        for line, fields in rows:
            yield line, BadRowError(fields) if isinstance(fields, str) else dict(zip_longest(header, fields))


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    with pq.ParquetFile(path) as file:
        yield from _rows(file.schema_arrow.names, path,
                         lambda used: file.iter_batches(BATCH_ROWS, columns=used))


def _data_set(source: str, note: Callable[[str], None]) -> Iterator[tuple[int, Any]]:
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
        raise UserError(f"--data {source}: no such file, and not to be had as a `datasets` name "
                        f"({type(error).__name__}: {first_line(error)})") from error
    if isinstance(found, dict):
        split = "train" if "train" in found else next(iter(found), "")
        if split != "train" and len(found) != 1:
            raise UserError(f"--data {source}: has no split train but {names(found)}; save the rows that you "
                            "mean as a file")
        if split != "train":
            note(f"{source} has no split train; its only one is taken: {split}")
        found = found[split]
    yield from _of_data_set(found, source)


def _of_data_set(found: Any, source: str) -> Iterator[tuple[int, Any]]:
    return _rows(found.column_names, source,
                 lambda used: found.select_columns(used).with_format("arrow").iter(BATCH_ROWS))


def _plain_name(column: str) -> str:
    """A column's name as rows know it: "Question " is question."""
    plain = column.strip().casefold()
    return plain if plain in COLUMNS else column


def _known(columns: list[str]) -> list[str]:
    """The names as rows know them. Beside a layout that is named exactly, and a name that is, others stay."""
    exact = COLUMNS.intersection(columns)
    if any(exact.issuperset(layout) for layout in LAYOUTS):
        return columns
    return [name if (plain := _plain_name(name)) in exact else plain for name in columns]


def _twice(columns: list[str]) -> str:
    twice = (name for name in columns if name in COLUMNS and columns.count(name) > 1)
    return next((f"names the column {name} twice" for name in twice), "")


def _rows(
    columns: list[str], source: Path | str, read: Callable[[list[str]], Iterable[pa.RecordBatch | pa.Table]]
) -> Iterator[tuple[int, Any]]:
    """Rows of the columns that a row can be made of: no other is read, whatever may be in it."""
    known = _known(columns)
    used = {column: name for column, name in zip(columns, known, strict=True) if name in COLUMNS}
    if bad := _twice(known):
        raise UserError(f"{source}: {bad}")
    if not used:
        raise UserError(f"no row of {source} can be used: has the columns {names(columns)}; needs prompt and "
                        "completion, question and answer, or messages")
    unread = dict.fromkeys(known, UNREAD)
    plain = (record for batch in read(list(used)) for record in _plain(batch.rename_columns(used)))
    for number, record in enumerate(plain, 1):
        yield number, record if isinstance(record, BadRowError) else unread | record


def _plain(batch: pa.RecordBatch | pa.Table) -> list[Any]:
    """Rows as dictionaries. One that Python has no value for, as a date beyond year 9999, is bad alone."""
    try:
        return batch.to_pylist()
    except (ArithmeticError, ValueError) as error:  # Arrow's own are among them
        if batch.num_rows == 1:
            return [BadRowError(f"cannot be read: {first_line(error)}")]
        return [record for place in range(batch.num_rows) for record in _plain(batch.slice(place, 1))]


READERS = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".parquet": _parquet, ".csv": _csv,
           ".tsv": _csv}
