"""Files that a run writes and reads back: JSON, JSON lines and YAML. They appear whole or not at all."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raft_fast.durable import replacing


def write_jsonl(records: Iterable[Any], path: Path) -> None:
    """Write dataclasses or dictionaries as JSON lines, atomically and durably; NaN is refused."""
    with replacing(path) as file:
        for record in records:
            plain = record if isinstance(record, dict) else dataclasses.asdict(record)
            file.write(json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")


def write_json(value: Any, path: Path) -> None:
    """Write one JSON value, atomically and durably; NaN is refused."""
    with replacing(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def json_lines(text: str) -> list[Any]:
    """The values of JSON lines. A newline alone ends one: texts may hold other separators (U+2028, U+0085),
    at which `splitlines` would cut."""
    return [json.loads(line) for line in text.split("\n") if line.strip()]
