"""What is measured of a trained model: a value and a weight for every row, prompt or text.

A measure is named "part.metric". Rows of one part are resampled together, so that everything measured
on them stays paired.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from raft_fast.evaluation import domain, general
from raft_fast.evaluation.drift import TokenDrift
from raft_fast.evaluation.exam import Answers
from raft_fast.evaluation.statistics import Pair

Values = dict[str, list[Pair | None]]


class Measure(NamedTuple):
    """How a measure is called and read."""

    label: str
    more_is_better: bool | None  # None: neither; it should stay as it was

    @property
    def arrow(self) -> str:
        """Which way is better."""
        return {True: "↑", False: "↓", None: ""}[self.more_is_better]


DISTANCE = "weights.distance"
RATIO = "CE / (λ KL)"  # of the two terms as they enter the loss
MEASURES = {
    "domain.nll": Measure("gold answer, nats per token", False),
    "domain.token_f1": Measure("token F1", True),
    "domain.similarity": Measure("similarity to gold", True),
    "domain.number_f1": Measure("numbers (F1)", True),
    "domain.jury": Measure("correct by the jury", True),
    "paraphrases.jury": Measure("reworded: correct by the jury", True),
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
    "domain.refused": Measure("refused, held-out", None),
    "general.words": Measure("words, general", None),
    "general.cut_off": Measure("cut off, general", None),
    "general.refused": Measure("refused, general", None),
}
# (domain score, what it costs) in which frontiers are drawn; the first two are drawn on the page
PLANES = [("domain.nll", "own.kl"), ("domain.jury", "own.kl"), ("domain.token_f1", "own.kl"),
          ("paraphrases.nll", "own.kl"), ("paraphrases.token_f1", "own.kl"), ("domain.nll", "own.nll"),
          ("domain.nll", "text.nll"), ("domain.token_f1", "general.strict_instruction"),
          ("domain.nll", DISTANCE)]


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
        """sum(values) / sum(weights)."""
        return mean(self.values.get(measure, []))

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"means": {name: self.mean(name) for name in self.values}}

    @classmethod
    def load(cls, saved: dict[str, Any]) -> "Measured":
        values = {name: [None if pair is None else (pair[0], pair[1]) for pair in pairs]
                  for name, pairs in saved["values"].items()}
        return cls(saved["method"], saved["learning_rate"], saved["seed"], saved["step"], values,
                   saved["extra"])


def mean(pairs: Sequence[Pair | None]) -> float | None:
    """sum(values) / sum(weights) over the pairs there are."""
    known = [pair for pair in pairs if pair is not None]
    weight = sum(pair[1] for pair in known)
    return sum(pair[0] for pair in known) / weight if weight else None


def measure(answers: Answers, drift: dict[str, list[TokenDrift]]) -> Values:
    """Every measure of one model that its answers and its drift from the base give."""
    found: Values = {f"{part}.{metric}": scores.parts(metric)
                     for part, scores in answers.domains.items() for metric in domain.METRICS}
    if answers.general:
        found |= {f"general.{metric}": answers.general.parts(metric) for metric in general.METRICS}
    for part, texts in drift.items():
        found |= {f"{part}.{metric}": [one.part(metric) for one in texts]
                  for metric in ("kl", "nll", "agreement")}
    return {name: _rounded(pairs) for name, pairs in found.items()}


def _rounded(pairs: Sequence[Pair | None]) -> list[Pair | None]:
    """Six decimals: more only makes the files longer."""
    return [None if pair is None else (round(float(pair[0]), 6), pair[1]) for pair in pairs]
