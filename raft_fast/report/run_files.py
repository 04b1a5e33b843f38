"""What a run's folder holds, as far as it is there: the only source of report and model card."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raft_fast.run.errors import UserError
from raft_fast.run.files import read_json, read_jsonl, read_yaml

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

    def read(name: str, empty: Any, keys: Sequence[str] = ()) -> Any:
        path = run_dir / name
        try:
            if not path.is_file():
                return empty
            if path.suffix == ".jsonl":
                return list(read_jsonl(path, keys=keys))
            return read_yaml(path) if path.suffix == ".yaml" else read_json(path, kind=type(empty), keys=keys)
        except UserError:
            bad.append(name)
            return empty

    return RunFiles(
        name=run_dir.resolve().name,
        config=read("config.yaml", {}),
        summary=read("refine/summary.json", {}),
        steps=read("metrics.jsonl", [], ["step"]),
        evaluation=read("evaluation.json", {}, ["domain", "general"]),
        generations=read("generations.jsonl", [], ["suite", "model"]),
        phases=read("phases.json", [], ["name", "seconds", "peak_bytes"]),
        collapse=read("collapse.json", {}, ["step", "reason"]),
        unreadable=bad,
    )
