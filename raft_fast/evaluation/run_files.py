"""What a run's folder holds, as far as it is there: the only source of report and model card."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from raft_fast.dataset import json_lines

Record = dict[str, Any]


@dataclass(frozen=True)
class RunFiles:
    """The files of a run. What is missing is empty."""

    name: str
    config: Record = field(default_factory=dict)
    summary: Record = field(default_factory=dict)
    steps: list[Record] = field(default_factory=list)
    evaluation: Record = field(default_factory=dict)
    generations: list[Record] = field(default_factory=list)
    phases: list[Record] = field(default_factory=list)
    collapse: Record = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


def read_run(run_dir: Path) -> RunFiles:
    """Read whatever `run_dir` holds; a file that cannot be read is named in `unreadable`."""
    bad: list[str] = []

    def read(name: str, empty: Any) -> Any:
        path = run_dir / name
        if not path.is_file():
            return empty
        try:
            return _PARSERS[path.suffix](path.read_text(encoding="utf-8")) or empty
        except (ValueError, yaml.YAMLError):
            bad.append(name)
            return empty

    return RunFiles(
        name=run_dir.resolve().name,
        config=read("config.yaml", {}),
        summary=read("refine/summary.json", {}),
        steps=read("metrics.jsonl", []),
        evaluation=read("evaluation.json", {}),
        generations=read("generations.jsonl", []),
        phases=read("phases.json", []),
        collapse=read("collapse.json", {}),
        unreadable=bad,
    )


_PARSERS: dict[str, Callable[[str], Any]] = {
    ".yaml": yaml.safe_load, ".json": json.loads, ".jsonl": json_lines}
