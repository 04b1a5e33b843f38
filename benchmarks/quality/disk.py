"""What cells leave on disk, read back: points with all that their raw answers tell, curves, cost.

    cells/<cell>/cell.json                           settings and cost; there once the cell is finished
    cells/<cell>/point-000012.json                   a checkpoint's values, row by row
    cells/<cell>/point-000012.generations.jsonl      its raw answers
    cells/<cell>/point-000012.jury.json              a jury's verdicts on them, where there is one
    base-point-<key>.json, base.generations.jsonl    the same of the base
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.quality.measures import DISTANCE, Measured, Values
from raft_fast.evaluation import behaviour
from raft_fast.run.errors import UserError

CURVES = ("step", "loss", "sft_loss", "kl_loss", "lambda", "ce_kl_ratio", "teacher_mass", "grad_norm",
          "rollout_seconds", "teacher_seconds", "train_seconds", "tokens", "skipped")
BASE_ANSWERS = "base.generations.jsonl"
Record = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A finished cell: its points in the order of their steps, its training curves, its cost."""

    points: list[Measured]
    curves: list[Record]
    about: Record


def read_cell(folder: Path) -> Outcome:
    """A finished cell from its files."""
    about = read_json(folder / "cell.json")
    points = [read_point(point_path(folder, step)) for step in about["steps"]]
    curves = [{key: line.get(key) for key in CURVES} for line in read_lines(folder / "metrics.jsonl")]
    return Outcome(points, curves, about)


def read_point(path: Path, answers: Path | None = None) -> Measured:
    """A point with its weights' distance and its answers' behaviour among its values."""
    point = Measured.load(read_json(path))
    answers = answers or path.with_suffix(".generations.jsonl")
    values = behaviour_of(answers) | weights_of(point) | verdicts_of(answers)
    return replace(point, values=point.values | values)


def verdicts_of(answers: Path) -> Values:
    """What a jury found of these answers; nothing without one."""
    path = verdicts_path(answers)
    found = read_json(path)["values"] if path.is_file() else {}
    return {name: [None if pair is None else (pair[0], pair[1]) for pair in pairs]
            for name, pairs in found.items()}


def verdicts_path(answers: Path) -> Path:
    return answers.with_name(answers.name.replace(".generations.jsonl", ".jury.json"))


def behaviour_of(path: Path) -> Values:
    """Words, cut-offs and refusals of every answer, by part; nothing where the answers are gone."""
    parts: dict[str, list[Record]] = {}
    for record in read_lines(path):
        parts.setdefault(record["suite"], []).append(record)
    return {f"{part}.{metric}": [behaviour.part_of(record, metric) for record in records]
            for part, records in parts.items() for metric in behaviour.METRICS}


def weights_of(point: Measured) -> Values:
    """The relative l2 distance from the base as a measure of one row; the base has not moved."""
    if point.step == 0:
        return {DISTANCE: [(0.0, 1.0)]}
    moved = point.extra["weights"]
    return {DISTANCE: [(moved["all"], 1.0)]} if moved else {}


def point_path(folder: Path, step: int) -> Path:
    return folder / f"point-{step:06d}.json"


def read_json(path: Path) -> Any:
    """What the file holds. Raises UserError where there is none or half of one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; it belongs to a finished comparison") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error


def read_lines(path: Path) -> list[Record]:
    """The records of a JSONL file; none where there is no file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
