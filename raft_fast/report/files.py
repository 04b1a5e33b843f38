"""The files of a run or of stage 1, the only source of reports and cards. What is missing or unreadable is
empty."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft_fast.run.errors import UserError
from raft_fast.run.files import json_object, read_json, read_jsonl, read_yaml, replacing

Record = dict[str, Any]
DECISIONS, PARTIAL_DECISIONS = "decisions.jsonl", "decisions.partial.jsonl"  # the latter of a stopped run


@dataclass(frozen=True)
class RunFiles:
    """The files of a training run; `unreadable` names those that could not be read."""

    name: str
    config: Record
    summary: Record
    steps: list[Record]
    evaluation: Record
    generations: list[Record]
    phases: list[Record]
    collapse: Record
    unreadable: list[str]


def read_run(run_dir: Path) -> RunFiles:
    """Whatever files of a training run `run_dir` has."""
    bad: list[str] = []

    def take(name: str, empty: Any, *keys: str) -> Any:
        return read(run_dir / name, empty, keys, bad)

    return RunFiles(
        name=run_dir.resolve().name, config=take("config.yaml", {}), summary=take("refine/summary.json", {}),
        steps=take("metrics.jsonl", [], "step"), evaluation=take("evaluation.json", {}, "domain", "general"),
        generations=take("generations.jsonl", [], "suite", "model"),
        phases=take("phases.json", [], "name", "seconds", "peak_bytes"),
        collapse=take("collapse.json", {}, "step", "reason"), unreadable=bad)


def read(path: Path, empty: Any, keys: Sequence[str] = (), bad: list[str] | None = None) -> Any:
    """A JSON, JSON lines or YAML file whose objects have these keys, of the type of `empty`; that itself for
    a missing file and one that cannot be read, whose name is added to `bad`."""
    try:
        if not path.is_file():
            return empty
        if path.suffix == ".jsonl":
            return list(read_jsonl(path, keys=keys))
        return read_yaml(path) if path.suffix == ".yaml" else read_json(path, kind=type(empty), keys=keys)
    except UserError:
        if bad is not None:
            bad.append(path.name)
        return empty


def read_lines(path: Path, *keys: str) -> Iterator[Record | None]:
    """The lines of a file one at a time, None for one that is no object with these keys."""
    if path.is_file():
        with path.open("rb") as file:
            yield from (parse(line, *keys) for line in file if line.strip())


def parse(line: bytes, *keys: str) -> Record | None:
    """The object with these keys in a line, or None."""
    try:
        return json_object(line, keys)
    except ValueError:
        return None


def rejected(folder: Path) -> list[str]:
    """Why each row in rejected.jsonl was set aside."""
    return [str(one["reason"]) for one in read_lines(folder / "rejected.jsonl", "reason") if one]


def write_text(text: str, path: Path) -> Path:
    """Write a text file atomically; returns its path."""
    with replacing(path) as file:
        file.write(text)
    return path
