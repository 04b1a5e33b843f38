"""A point is one model, measured: a value and a weight for every row, prompt and text, and its files.

    cells/<cell>/cell.json                         settings and cost; written when the cell is finished
    cells/<cell>/point-000012.json                 the values of a checkpoint, row by row
    cells/<cell>/point-000012.generations.jsonl    its raw answers
    base-point-<key>.json, base.generations.jsonl  the same for the base

A measure is named "part.metric". All measures of one part are resampled together, so they stay paired.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from raft_fast.evaluation.both_models import Answers
from raft_fast.evaluation.drift import TokenDrift
from raft_fast.evaluation.scores import METRICS, WORD, Pair, pairs
from raft_fast.run.errors import UserError

Values = dict[str, list[Pair | None]]
Record = dict[str, Any]


class Measure(NamedTuple):
    """How a measure is called and which way is better."""

    label: str
    more_is_better: bool | None  # None: neither; it should stay as it was

    def __str__(self) -> str:
        return f"{self.label} {({True: '↑', False: '↓', None: ''}[self.more_is_better])}".rstrip()

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.more_is_better else -1


DISTANCE = "weights.distance"
MEASURES = {
    "domain.nll": Measure("gold answer, nats per token", False),
    "domain.token_f1": Measure("token F1", True),
    "domain.similarity": Measure("similarity to gold", True),
    "domain.number_f1": Measure("numbers (F1)", True),
    "domain.reference_f1": Measure("legal references (F1)", True),
    "paraphrases.nll": Measure("reworded: gold answer, nats per token", False),
    "paraphrases.token_f1": Measure("reworded: token F1", True),
    "paraphrases.similarity": Measure("reworded: similarity to gold", True),
    "own.kl": Measure("KL from base, nats per token", False),
    "own.nll": Measure("base's own answers, nats per token", False),
    "text.nll": Measure("general text, nats per token", False),
    "general.strict_instruction": Measure("IFBench instructions followed", True),
    DISTANCE: Measure("relative ℓ2 distance of the weights", False),
    "domain.words": Measure("words, held-out", None),
    "domain.cut_off": Measure("cut off, held-out", None),
    "general.words": Measure("words, general", None),
    "general.cut_off": Measure("cut off, general", None),
}
CURVES = ("step", "loss", "sft_loss", "kl_loss", "lambda", "ce_kl_ratio", "teacher_mass", "grad_norm",
          "rollout_seconds", "teacher_seconds", "train_seconds", "tokens", "skipped")  # of metrics.jsonl
BASE_ANSWERS = "base.generations.jsonl"


@dataclass(frozen=True)
class Measured:
    """One model: a method at a learning rate, seed and optimizer step (step 0 is the base)."""

    method: str
    learning_rate: float
    seed: int
    step: int
    values: Values
    extra: dict[str, Any]

    def mean(self, measure: str) -> float | None:
        """sum(values) / sum(weights) over the rows that have the measure."""
        known = [pair for pair in self.values.get(measure, []) if pair is not None]
        weight = sum(pair[1] for pair in known)
        return sum(pair[0] for pair in known) / weight if weight else None

    def means(self) -> dict[str, float | None]:
        """Of the measures in MEASURES that this point has."""
        return {name: self.mean(name) for name in MEASURES if name in self.values}

    def as_json(self) -> Record:
        return asdict(self) | {"means": {name: self.mean(name) for name in self.values}}

    @classmethod
    def load(cls, saved: Record) -> "Measured":
        return cls(saved["method"], saved["learning_rate"], saved["seed"], saved["step"],
                   _pairs(saved["values"]), saved["extra"])


@dataclass(frozen=True)
class Outcome:
    """A finished cell: its points in the order of their steps, its training curves, its settings."""

    points: list[Measured]
    curves: list[Record]
    about: Record


def measure(answers: Answers, drift: dict[str, list[TokenDrift]]) -> Values:
    """Every measure that a model's answers and its drift from the base give, to six decimals."""
    found: Values = {f"{part}.{metric}": pairs(records, metric)
                     for part, records in answers.items() for metric in METRICS[part]}
    for part, texts in drift.items():
        found |= {f"{part}.{metric}": [one.part(metric) for one in texts]
                  for metric in ("kl", "nll")}
    return {name: [None if pair is None else (round(float(pair[0]), 6), pair[1]) for pair in rows]
            for name, rows in found.items()}


def read_cell(folder: Path) -> Outcome:
    """A finished cell from its files."""
    about = read_json(folder / "cell.json")
    points = [read_point(point_path(folder, step)) for step in about["steps"]]
    curves = [{key: line.get(key) for key in CURVES} for line in read_lines(folder / "metrics.jsonl")]
    return Outcome(points, curves, about)


def read_point(path: Path, answers: Path | None = None) -> Measured:
    """A point with the length of its answers and the distance of its weights."""
    point = Measured.load(read_json(path))
    answers = answers or path.with_suffix(".generations.jsonl")
    values = lengths_of(answers)
    moved = {"all": 0.0} if point.step == 0 else point.extra["weights"]
    if moved:  # none for a LoRA adapter that is not merged
        values[DISTANCE] = [(moved["all"], 1.0)]
    return replace(point, values=point.values | values)


def lengths_of(path: Path) -> Values:
    """Words of every answer and whether it was cut off, by part; nothing where the answers are gone."""
    found: Values = {}
    for one in read_lines(path):
        failed, words = one["error"] is not None, len(WORD.findall(one["answer"]))
        for name, length in (("words", words), ("cut_off", one["finish_reason"] == "length")):
            found.setdefault(f"{one['suite']}.{name}", []).append(None if failed else (float(length), 1.0))
    return found


def counted(count: int, noun: str) -> str:
    """"1 row", "2,000 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def point_path(folder: Path, step: int) -> Path:
    return folder / f"point-{step:06d}.json"


def read_json(path: Path) -> Any:
    """Raises UserError where the file is missing or not valid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; it belongs to a finished comparison") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error


def read_lines(path: Path) -> list[Record]:
    """The records of a JSONL file; an empty list where there is no file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _pairs(saved: Record) -> Values:
    return {name: [None if pair is None else (pair[0], pair[1]) for pair in pairs]
            for name, pairs in saved.items()}
