"""What stage 1 left in its folder, read without loading more than a line at a time."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from raft_fast.run.errors import UserError
from raft_fast.run.files import json_object, read_json, read_yaml

Record = dict[str, Any]
DECISIONS, SUMMARY, CONFIG = "decisions.jsonl", "summary.json", "config.yaml"
RUNS, SCREEN, REJECTED = "runs.jsonl", "screen.json", "rejected.jsonl"
PARTIAL_DECISIONS = "decisions.partial.jsonl"  # of a run that was stopped


def read_summary(folder: Path) -> Record:
    """summary.json; empty where there is none or it cannot be read."""
    return _read(read_json, folder / SUMMARY)


def read_config(folder: Path) -> Record:
    """config.yaml; empty where there is none or it cannot be read."""
    return _read(read_yaml, folder / CONFIG)


def read_screen(folder: Path) -> Record:
    """screen.json; empty where there is none or it cannot be read."""
    return _read(read_json, folder / SCREEN, ["options", "flagged"])


def read_rejected(folder: Path) -> list[str]:
    """Why each row that was set aside was."""
    path = folder / REJECTED
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [str(one["reason"]) for line in lines if (one := _record(line)) is not None and "reason" in one]


def read_runs(folder: Path) -> list[Record]:
    """What each start of the command took, those of shards included."""
    found = []
    for path in [folder / RUNS, *sorted(folder.glob(f"shards/*/{RUNS}"))]:
        if path.is_file():
            lines = path.read_bytes().splitlines()  # of bytes: at newlines alone
            found += [run for line in lines if (run := _record(line)) is not None]
    return found


def read_decisions(folder: Path) -> Iterator[Record | None]:
    """The lines of decisions.jsonl in order, None for one that cannot be read."""
    path = folder / DECISIONS
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield parse(line)


def parse(line: bytes) -> Record | None:
    """One line of decisions.jsonl, or None."""
    record = _record(line)
    return record if record is not None and "row_id" in record else None


def _record(line: bytes) -> Record | None:
    try:
        return json_object(line)
    except ValueError:
        return None


def _read(reader: Callable[..., Record], path: Path, keys: Sequence[str] = ()) -> Record:
    try:
        return reader(path, keys=keys)
    except UserError:
        return {}
