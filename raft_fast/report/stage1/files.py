"""What stage 1 left in its folder, read without loading more than a line at a time."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Record = dict[str, Any]
DECISIONS, SUMMARY, CONFIG = "decisions.jsonl", "summary.json", "config.yaml"
RUNS, SCREEN, REJECTED = "runs.jsonl", "screen.json", "rejected.jsonl"
PARTIAL_DECISIONS = "decisions.partial.jsonl"  # of a run that was stopped


def read_summary(folder: Path) -> Record:
    """summary.json; empty where there is none or it cannot be read."""
    return _read(folder / SUMMARY, json.loads)


def read_config(folder: Path) -> Record:
    """config.yaml; empty where there is none or it cannot be read."""
    return _read(folder / CONFIG, yaml.safe_load)


def read_screen(folder: Path) -> Record:
    """screen.json; empty where there is none or it cannot be read."""
    return _read(folder / SCREEN, json.loads)


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
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _read(path: Path, parser: Callable[[str], Any]) -> Record:
    try:
        found = parser(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
