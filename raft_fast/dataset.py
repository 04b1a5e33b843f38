"""Rows in and out: every format becomes a list of `Row`s, and every bad row is named."""

import csv
import dataclasses
import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raft_fast.engines import Message
from raft_fast.errors import UserError

REFINED_COLUMNS = ("row_id", "prompt", "completion", "gold", "rewrite", "fused", "source",
                   "similarity", "category")
SOURCES = ("gold", "rewrite", "fused")
PAIRS = (("prompt", "completion"), ("question", "answer"))
SHOWN_REASONS = 3
HUB_SECONDS = 5


@dataclass(frozen=True)
class Row:
    """One question with its answers. Raw rows have a gold answer only; stage 1 adds the others."""

    row_id: str
    prompt: list[Message]
    completion: str
    gold: str
    category: str | None = None
    rewrite: str | None = None
    fused: str | None = None
    source: str = "gold"
    similarity: float | None = None


@dataclass(frozen=True)
class Rejected:
    """A row that cannot be used: where it stands (line None: known by its row_id only) and why."""

    file: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


class BadRowError(ValueError):
    """A record that is no row; the message is the reason."""


@dataclass(frozen=True)
class Table:
    """What a file held: rows, set-aside rows, and whether stage 1 has already been over it."""

    rows: list[Row]
    rejected: list[Rejected]
    refined: bool


def read_table(source: str, max_bad_rows: float) -> Table:
    """Read JSONL, parquet, CSV or a `datasets` name.

    Raises UserError for a missing or empty source, columns that fit no known layout, or a share of
    bad rows above `max_bad_rows`.
    """
    rows: list[Row] = []
    rejected: list[Rejected] = []
    seen: dict[str, int] = {}
    refined, line = True, 0
    for line, record in _records(source):
        try:
            row = _to_row(record, f"row-{line:06d}")
            if row.row_id in seen:
                raise BadRowError(f"row_id {row.row_id!r} stands in line {seen[row.row_id]} already")
        except BadRowError as bad:
            rejected.append(Rejected(source, line, str(bad)))
            continue
        seen[row.row_id] = line
        refined = refined and set(REFINED_COLUMNS) - {"category"} <= set(record)
        rows.append(row)
    _judge_bad_rows(source, rows, rejected, max_bad_rows)
    return Table(rows, rejected, refined)


def fingerprint_rows(rows: Sequence[Row]) -> str:
    """A sha256 over everything in the rows, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(dataclasses.asdict(row), sort_keys=True).encode())
    return digest.hexdigest()


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write rows with all refined columns as parquet, atomically."""
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    types = {"prompt": pa.list_(message), "similarity": pa.float64()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in REFINED_COLUMNS])
    table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=schema)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial)
    partial.replace(path)


def write_jsonl(records: Iterable[Any], path: Path) -> None:
    """Write dataclasses or dictionaries as JSON lines, atomically; NaN is refused."""
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for record in records:
            plain = record if isinstance(record, dict) else dataclasses.asdict(record)
            file.write(json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")
    partial.replace(path)


def write_json(value: Any, path: Path) -> None:
    """Write one JSON value, atomically; NaN is refused."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n",
                       encoding="utf-8")
    partial.replace(path)


def spread(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` rows drawn evenly over the categories (0: all), in the file's order."""
    if count == 0 or count >= len(rows):
        return list(rows)
    queues = [list(reversed(group)) for group in _shuffled_categories(rows, seed)]
    chosen: set[str] = set()
    while len(chosen) < count:
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.add(queue.pop().row_id)
    return [row for row in rows if row.row_id in chosen]


def split(rows: Sequence[Row], heldout: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows), by category: each category with two rows has both."""
    out: set[str] = set()
    for group in _shuffled_categories(rows, seed):
        count = min(max(round(heldout * len(group)), 1), len(group) - 1)
        out.update(row.row_id for row in group[:count])
    return ([row for row in rows if row.row_id not in out],
            [row for row in rows if row.row_id in out])


def _shuffled_categories(rows: Sequence[Row], seed: int) -> list[list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.category or ""].append(row)
    for name, group in groups.items():
        random.Random(f"{seed} {name}").shuffle(group)
    return [groups[name] for name in sorted(groups)]


def _judge_bad_rows(source: str, rows: list[Row], rejected: list[Rejected], limit: float) -> None:
    total = len(rows) + len(rejected)
    reasons = "; ".join(str(bad) for bad in rejected[:SHOWN_REASONS])
    if total == 0:
        raise UserError(f"--data {source}: holds no rows")
    if not rows:
        raise UserError(f"no row of {source} can be used: {reasons}")
    if len(rejected) > limit * total:
        raise UserError(f"{len(rejected)} of {total} rows are bad, more than --max_bad_rows {limit} "
                        f"allows: {reasons}")


def _records(source: str) -> Iterator[tuple[int, Any]]:
    """(line or row number from 1, record); a record that cannot be read is its BadRowError."""
    path = Path(source)
    if path.is_dir():
        raise UserError(f"--data {source}: is a folder; name a .jsonl, .parquet or .csv file in it")
    if path.is_file():
        readers = {".jsonl": _jsonl, ".parquet": _parquet, ".csv": _csv}
        if path.suffix not in readers:
            raise UserError(f"--data {source}: unknown ending; must be .jsonl, .parquet or .csv")
        try:
            yield from readers[path.suffix](path)
        except PermissionError as error:
            raise UserError(f"--data {source}: may not be read (permission denied)") from error
        except (UnicodeDecodeError, pa.ArrowInvalid, csv.Error) as error:
            raise UserError(f"--data {source}: cannot be read as {path.suffix}: {error}") from error
    elif path.suffix or path.is_absolute() or source.count("/") > 1:
        raise UserError(f"--data {source}: no such file")
    else:
        yield from _hub(source)


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                yield number, BadRowError(f"not UTF-8 at byte {error.start}")
            except json.JSONDecodeError as error:
                yield number, BadRowError(f"not valid JSON: {error.msg} at column {error.colno}")


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for record in reader:
            yield reader.line_num, record


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    number = 0
    for batch in pq.ParquetFile(path).iter_batches():
        for record in batch.to_pylist():
            number += 1
            yield number, record


def _hub(source: str) -> Iterator[tuple[int, Any]]:
    import datasets
    from huggingface_hub import HfApi

    try:
        if not datasets.config.HF_HUB_OFFLINE:
            HfApi().dataset_info(source, timeout=HUB_SECONDS)  # one quick question before many slow ones
        rows = datasets.load_dataset(source, split="train")
    except Exception as error:  # every hub client raises its own kinds
        reason = str(error).split("\n")[0]
        raise UserError(f"--data {source}: no such file, and not to be had as a `datasets` name "
                        f"({type(error).__name__}: {reason})") from error
    yield from enumerate(rows, 1)


def _to_row(record: Any, default_id: str) -> Row:
    if isinstance(record, BadRowError):
        raise record
    if not isinstance(record, dict):
        raise BadRowError(f"must be an object, is {type(record).__name__}")
    prompt, completion = _prompt_and_completion(record)
    ids = [record[name] for name in ("row_id", "id") if record.get(name) not in (None, "")]
    similarity = record.get("similarity")
    if not (similarity is None or isinstance(similarity, int | float)):
        raise BadRowError(f"similarity must be a number, is {type(similarity).__name__}")
    texts = {name: _text(record[name], name) for name in ("gold", "rewrite", "fused") if record.get(name)}
    return Row(
        row_id=str(ids[0]) if ids else default_id,
        prompt=prompt,
        completion=completion,
        category=None if record.get("category") is None else str(record["category"]),
        source=source if (source := record.get("source")) in SOURCES else "gold",
        similarity=similarity,
        **{"gold": completion, **texts},
    )


def _prompt_and_completion(record: dict) -> tuple[list[Message], str]:
    if record.get("messages") is not None:
        messages = _messages(record["messages"], "messages")
        if messages[-1]["role"] != "assistant":
            raise BadRowError("messages must end with an assistant turn (the answer)")
        return _ends_with_user(messages[:-1], "messages"), _text(messages[-1]["content"], "answer")
    for asked, answered in PAIRS:
        if asked in record and answered in record:
            prompt, completion = record[asked], record[answered]
            if isinstance(completion, list):  # conversational prompt/completion, as TRL has it
                turn = _messages(completion, answered)[-1]
                if turn["role"] != "assistant":
                    raise BadRowError(f"{answered} must end with an assistant turn")
                completion = turn["content"]
            if isinstance(prompt, list):
                prompt = _ends_with_user(_messages(prompt, asked), asked)
            else:
                prompt = [Message(role="user", content=_text(prompt, asked))]
            return prompt, _text(completion, answered)
    raise BadRowError(f"has the columns {', '.join(map(str, record))}; needs prompt and completion, "
                 "question and answer, or messages")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRowError(f"{name} is empty" if value in (None, "") or isinstance(value, str)
                     else f"{name} must be text, is {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(f"{name} holds half a character at position {error.start}") from error
    return value.strip()


def _messages(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise BadRowError(f"{name} must be a list of messages")
    for turn in value:
        if not isinstance(turn, dict) or turn.get("role") not in ("system", "user", "assistant"):
            raise BadRowError(f"{name} must have turns with the role system, user or assistant")
    return [Message(role=turn["role"], content=_text(turn.get("content"), name)) for turn in value]


def _ends_with_user(messages: list[Message], name: str) -> list[Message]:
    if not messages or messages[-1]["role"] != "user":
        raise BadRowError(f"{name} must have a user turn before the answer")
    return messages
