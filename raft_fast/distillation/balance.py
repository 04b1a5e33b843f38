"""λ, the weight of the KL loss (Eqs. 11-12): a number that is never differentiated.

`update` takes the two sizes of a step, of the terms without λ ("sft") and of those with it ("kl"); `weight`
gives λ, and `weight_with` the λ that sizes lead to which are still on the device. The caller chooses the
sizes: loss values (Eq. 12) or gradient norms at the hidden states.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from raft_fast.run.options import TrainOptions

EPSILON = 1e-8


@dataclass
class MovingAverage:
    """Bias-corrected exponential moving average (Eq. 11): m <- beta m + (1 - beta) x, m / (1 - beta^s)."""

    beta: float
    value: float = 0.0
    steps: int = 0

    def update(self, x: float) -> None:
        self.value = self.beta * self.value + (1 - self.beta) * x
        self.steps += 1

    def corrected_with(self, x: Any) -> Any:
        """What `corrected` would be after `x`, a number or a tensor."""
        return (self.beta * self.value + (1 - self.beta) * x) / (1 - self.beta ** (self.steps + 1))

    @property
    def corrected(self) -> float:
        return self.value / (1 - self.beta**self.steps)


@dataclass
class EmaBalance:
    """λ = m_sft / (m_kl + ε), never above `lambda_max` (a KL of zero would make it unbounded)."""

    beta: float
    lambda_max: float
    sft: MovingAverage = field(init=False)
    kl: MovingAverage = field(init=False)

    def __post_init__(self) -> None:
        self.sft, self.kl = MovingAverage(self.beta), MovingAverage(self.beta)

    def update(self, sft: float, kl: float) -> None:
        if math.isfinite(sft) and math.isfinite(kl):  # one bad step must not stay in the averages
            self.sft.update(sft)
            self.kl.update(kl)

    def weight(self) -> float:
        """λ from everything seen so far; 1 before the first step."""
        if self.sft.steps == 0:
            return 1.0
        return min(self.sft.corrected / (self.kl.corrected + EPSILON), self.lambda_max)

    def weight_with(self, sft: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
        """λ with the sizes of a step included, before `update` has them."""
        averages = self.sft.corrected_with(sft) / (self.kl.corrected_with(kl) + EPSILON)
        return averages.clamp(max=self.lambda_max)

    def state(self) -> dict[str, float]:
        return {"sft": self.sft.value, "kl": self.kl.value, "steps": self.sft.steps}

    def load(self, state: dict[str, float]) -> None:
        steps = int(state["steps"])
        self.sft = MovingAverage(self.beta, state["sft"], steps)
        self.kl = MovingAverage(self.beta, state["kl"], steps)


@dataclass
class FixedBalance:
    """A constant λ: nothing to learn or to restore."""

    value: float

    def update(self, sft: float, kl: float) -> None: ...

    def weight(self) -> float:
        return self.value

    def weight_with(self, sft: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
        return torch.full_like(sft, self.value)

    def state(self) -> dict[str, float]:
        return {}

    def load(self, state: dict[str, float]) -> None: ...


def make_balance(options: TrainOptions) -> EmaBalance | FixedBalance:
    """λ as --balance says; ema and gradient differ in the sizes that they get."""
    if options.balance == "fixed":
        return FixedBalance(options.fixed_lambda)
    return EmaBalance(options.ema_beta, options.lambda_max)
