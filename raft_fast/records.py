"""Raw records out of files and hub data sets, one at a time, with the line each stands in."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raft_fast.errors import UserError, first_line

HUB_SECONDS = 5
COLUMNS = {"row_id", "id", "question", "answer", "prompt", "completion", "category"}
BEYOND = "\0beyond"  # what a CSV line has more than its header


class BadRowError(ValueError):
    """A record that is no row; the message is the reason."""


def records(source: str) -> Iterator[tuple[int, Any]]:
    """(line or row number from 1, record); a record that cannot be read is its BadRowError.

    Raises UserError for a source that is missing or in no known format.
    """
    if (path := own_file(source)) is None:
        yield from _hub(source)
        return
    try:
        yield from READERS[path.suffix](path)
    except PermissionError as error:
        raise UserError(f"--data {source}: may not be read (permission denied)") from error
    except (UnicodeDecodeError, OSError, pa.ArrowException, csv.Error) as error:
        raise UserError(f"--data {source}: cannot be read as {path.suffix}: {error}") from error


def own_file(source: str) -> Path | None:
    """The user's file; None where `source` may be a `datasets` name. Raises UserError where it is neither."""
    path = Path(source)
    if path.is_dir():
        raise UserError(f"--data {source}: is a folder; name a .jsonl, .parquet or .csv file in it")
    if path.is_file():
        if path.suffix not in READERS:
            raise UserError(f"--data {source}: unknown ending; must be .jsonl, .parquet or .csv")
        return path
    if path.suffix or path.is_absolute() or source.count("/") > 1:
        raise UserError(f"--data {source}: no such file")
    return None


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
                what = error.msg.removesuffix(" at")
                yield number, BadRowError(f"not valid JSON: {what} at column {error.colno}")


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        # a spreadsheet writes semicolons where the comma is a decimal one
        reader = csv.DictReader(file, delimiter=max(",;\t", key=header.count), restkey=BEYOND)
        reader.fieldnames = [_known(name) for name in reader.fieldnames or []]
        for record in reader:
            bad = BadRowError("has more fields than the first line names; a text with the separator in it "
                              "must be in double quotes")
            yield reader.line_num, bad if BEYOND in record else record


def _known(name: str) -> str:
    """A column's name as rows are known to have it: "Question " is question."""
    plain = name.strip().casefold()
    return plain if plain in COLUMNS else name


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    number = 0
    for batch in pq.ParquetFile(path).iter_batches():
        for record in batch.to_pylist():
            number += 1
            yield number, record


READERS = {".jsonl": _jsonl, ".parquet": _parquet, ".csv": _csv}


def _hub(source: str) -> Iterator[tuple[int, Any]]:
    import datasets
    from huggingface_hub import HfApi

    try:
        if not datasets.config.HF_HUB_OFFLINE:
            HfApi().dataset_info(source, timeout=HUB_SECONDS)  # one quick question before many slow ones
        rows = datasets.load_dataset(source, split="train")
    except Exception as error:  # every hub client raises its own kinds
        raise UserError(f"--data {source}: no such file, and not to be had as a `datasets` name "
                        f"({type(error).__name__}: {first_line(error)})") from error
    yield from enumerate(rows, 1)
