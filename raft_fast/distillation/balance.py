"""λ, the weight of the KL loss (Eqs. 11-12): a number that is never differentiated.

A balance is fed the two sizes of a step with `update` and gives λ with `weight`; `weight_with` gives the
λ that these sizes lead to while they are still on the device. What the sizes are is the caller's: loss
values (Eq. 12) or gradient norms at the hidden states.
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
        """λ with the sizes of a step included, before `update` is told of them."""
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
    """A constant λ."""

    value: float

    def update(self, sft: float, kl: float) -> None:
        """Nothing to learn."""

    def weight(self) -> float:
        return self.value

    def weight_with(self, sft: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
        return torch.full_like(sft, self.value)

    def state(self) -> dict[str, float]:
        return {}

    def load(self, state: dict[str, float]) -> None:
        """Nothing to restore."""


def make_balance(options: TrainOptions) -> EmaBalance | FixedBalance:
    """λ as the options ask; ema and gradient differ in what they are fed."""
    if options.balance == "fixed":
        return FixedBalance(options.fixed_lambda)
    return EmaBalance(options.ema_beta, options.lambda_max)
