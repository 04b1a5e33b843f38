"""One optimizer step: both losses, λ, backward, update (Eqs. 8-12)."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from raft_kernels import TopKTargets

from raft_fast.data.dataset import Row
from raft_fast.distillation.balance import EmaBalance, FixedBalance
from raft_fast.distillation.clock import Clock
from raft_fast.distillation.examples import Counts, Example, Limits
from raft_fast.distillation.sharding import accumulating, whole_tensor
from raft_fast.distillation.student_pass import MEASURES
from raft_fast.distillation.teacher import Teacher
from raft_fast.models.chat import Chat, View
from raft_fast.run.options import TrainOptions
from raft_fast.run.processes import Processes


@dataclass
class Stepper:
    """Holds what every step needs; `run` is the step, which all processes take together.

    student_pass: the student with its losses, spread over the processes (`sharding.spread`).
    `limits` cut a step into micro-batches; lowering them changes neither losses nor gradients at equal λ.
    """

    student_pass: Any
    teacher: Teacher | None
    chat: Chat
    balance: EmaBalance | FixedBalance
    optimizer: torch.optim.Optimizer
    options: TrainOptions

    def __post_init__(self) -> None:
        self.limits = Limits(self.options.per_device_train_batch_size,
                             self.options.max_tokens_per_micro_batch)
        self.parameters = [p for p in self.student_pass.parameters() if p.requires_grad]
        self.device, self.processes = self.parameters[0].device, Processes()

    @property
    def halved_to(self) -> int | None:
        """Rows of a micro-batch where memory was too scarce for as many as the options ask."""
        rows = self.limits.rows
        return rows if rows < self.options.per_device_train_batch_size else None

    def example(self, row: Row, trajectory: list[int]) -> Example:
        """Render a row once for all three views; token ids only from here on. Tokens of the trajectory
        that the loss skips are the end of a prompt."""
        sft = self.chat.sft_view(row.prompt, row.completion) if self.options.sft else None
        skip = self.options.num_loss_tokens_to_skip
        skipped, scored = trajectory[:skip], trajectory[skip:]
        if self.teacher is None or not scored:
            return Example(sft, None, None)
        example = Example(sft, View(self.chat.student_prompt(row.prompt) + skipped, scored),
                          View(self.teacher.prompt(row) + skipped, scored))
        example.check()
        return example

    def run(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Do one optimizer step on all rows of it; returns the step's metrics.

        With one micro-batch Eqs. 11-12 hold exactly; with several, λ comes from the averages of the step
        before, so that cutting a step up changes nothing else.
        """
        counts, clock = Counts.of(examples), Clock(self.device)
        if counts.nothing:
            return self._metrics(counts, None, clock)
        micro_batches = self._own_micro_batches(examples)
        exact = counts.both and len(micro_batches) == 1
        weight = self._on_device(self.balance.weight() if self._has_lambda(counts) else 1.0)
        sums = self._on_device([0.0] * len(MEASURES))
        self.optimizer.zero_grad(set_to_none=True)
        for micro_batch in micro_batches:
            is_last = micro_batch is micro_batches[-1]
            with clock.part("teacher_seconds"):
                targets = self._ask_teacher(micro_batch)
            with clock.part("train_seconds"), nullcontext() if is_last else accumulating(self.student_pass):
                (sft, kl), measures = self.student_pass(micro_batch, targets, counts)
                sums += measures
                if is_last:
                    self.processes.sum(sums)
                if exact:
                    weight = self.balance.weight_with(*self._sizes(sums))
                # gradients are averaged over the processes, and losses are parts of a sum
                (self.processes.size * (sft + weight.float() * kl)).backward()
        with clock.part("train_seconds"):
            outcome = self._update(sums, weight, exact)
        if counts.both and outcome.finite:
            self.balance.update(outcome.sft_size, outcome.kl_size)
        return self._metrics(counts, outcome, clock)

    def _own_micro_batches(self, examples: Sequence[Example]) -> list[list[Example]]:
        """This process's share of the step, in as many passes as the process with the most of them."""
        cuts = [self.limits.cut(share) for share in self.processes.deal(examples)]
        own = cuts[self.processes.rank]
        return own + [[] for _ in range(max(map(len, cuts)) - len(own))]

    def _ask_teacher(self, examples: Sequence[Example]) -> TopKTargets | None:
        """What should follow each trajectory token (Eqs. 7-9); None where there is none."""
        views = [example.teacher for example in examples if example.teacher]
        return self.teacher.targets(views) if self.teacher and views else None

    def _has_lambda(self, counts: Counts) -> bool:
        """Whether the KL loss has a weight: two terms to balance, or a λ that is given."""
        return counts.both or bool(counts.trajectories and isinstance(self.balance, FixedBalance))

    def _sizes(self, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What λ balances: loss values, or gradient norms, whose squares were added up."""
        sft, kl = sums[MEASURES.index("sft_size")], sums[MEASURES.index("kl_size")]
        return (sft.sqrt(), kl.sqrt()) if self.options.balance == "gradient" else (sft, kl)

    def _update(self, sums: torch.Tensor, weight: torch.Tensor, exact: bool) -> "Outcome":
        """Clip and step; a loss or gradient that is not finite leaves the weights alone.

        Here the step waits for the device, for the first time.
        """
        norm = whole_tensor(torch.nn.utils.clip_grad_norm_(self.parameters, self.options.max_grad_norm))
        sft_size, kl_size = self._sizes(sums)
        read = torch.stack([sums[0], sums[1], sft_size, kl_size, sums[4], weight, norm.double()]).tolist()
        outcome = Outcome(exact, *read)
        if outcome.finite:
            self.optimizer.step()
        return outcome

    def _metrics(self, counts: Counts, outcome: "Outcome | None", clock: Clock) -> dict[str, Any]:
        """What metrics.jsonl has of a step; `outcome` None where there was nothing to learn from."""
        sft = outcome.sft_loss if outcome and counts.sft_tokens else None
        kl = outcome.kl_loss if outcome and counts.trajectories else None
        scaled = None if outcome is None or kl is None else outcome.weight * kl
        weight = outcome.weight if outcome and self._has_lambda(counts) else None
        bounded = isinstance(self.balance, EmaBalance) and weight == self.balance.lambda_max
        seconds = {"teacher_seconds": 0.0, "train_seconds": 0.0, **clock.read()}
        learnt = outcome is not None and outcome.finite
        return {
            "loss": _finite((sft or 0.0) + (scaled or 0.0)) if outcome else None,
            "sft_loss": _finite(sft),
            "kl_loss": _finite(kl),
            "lambda": _finite(weight),
            "lambda_exact": outcome.exact if outcome and counts.both else None,
            "ce_kl_ratio": _finite(sft / scaled) if sft is not None and scaled else None,
            "teacher_mass": _finite(outcome.teacher_mass / counts.trajectory_tokens)
                            if outcome and counts.trajectories else None,
            "grad_norm": outcome.grad_norm if outcome and learnt else None,
            "lr": self.optimizer.param_groups[0]["lr"],
            "teacher_seconds": seconds["teacher_seconds"] if self.teacher else None,
            "train_seconds": seconds["train_seconds"],
            "tokens": counts.tokens,
            "trajectories": counts.trajectories,
            "trajectory_tokens": counts.trajectory_tokens,
            "lambda_bounded": bounded,
            "skipped": not learnt,
            "skipped_because": None if learnt else "not finite" if outcome else "nothing to learn from",
        }

    def _on_device(self, values: float | list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.device)


@dataclass(frozen=True)
class Outcome:
    """What a step read from the device, all at once; `exact` where λ includes the step's own losses."""

    exact: bool
    sft_loss: float
    kl_loss: float
    sft_size: float
    kl_size: float
    teacher_mass: float
    weight: float
    grad_norm: float

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, (self.sft_loss, self.kl_loss, self.grad_norm)))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
