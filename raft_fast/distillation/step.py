"""One optimizer step: both losses, λ, backward, update (Eqs. 8-12)."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from raft_kernels import TopKTargets

from raft_fast.chat import Chat, View
from raft_fast.dataset import Row
from raft_fast.distillation import losses
from raft_fast.distillation.balance import EmaBalance, FixedBalance
from raft_fast.distillation.teacher import Teacher
from raft_fast.head import head_of
from raft_fast.options import TrainOptions
from raft_fast.packing import completion_hidden, completion_ids


@dataclass(frozen=True)
class Example:
    """One row of a step: its SFT view and the trajectory as student and teacher see it.

    A view is None where its term is off or the trajectory is empty.
    """

    sft: View | None
    student: View | None
    teacher: View | None

    def check(self) -> None:
        """Both sides must score the very same tokens."""
        if self.student and self.teacher and self.student.completion != self.teacher.completion:
            raise AssertionError("student and teacher views hold different completions")


@dataclass
class Totals:
    """The step's global counts, and what adds up over its micro-batches; None where a term is off."""

    sft_tokens: int
    trajectories: int
    trajectory_tokens: int
    tokens: int
    sft: float | None = None
    kl: float | None = None
    magnitudes: dict[str, float] = field(default_factory=lambda: {"sft": 0.0, "kl": 0.0})
    mass: float = 0.0
    teacher_seconds: float = 0.0
    train_seconds: float = 0.0

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Totals":
        """Counts of a step: the losses divide by these, so micro-batches change nothing."""
        answers = [example.sft for example in examples if example.sft]
        trajectories = [example.student for example in examples if example.student]
        return cls(_tokens(answers), len(trajectories), _tokens(trajectories),
                   sum(len(view.ids) for view in [*answers, *trajectories]))

    @property
    def both(self) -> bool:
        """Whether there are two terms to balance."""
        return self.sft is not None and self.kl is not None

    @property
    def nothing(self) -> bool:
        """Whether there is no term at all: every completion is empty."""
        return self.sft is None and self.kl is None

    @property
    def finite(self) -> bool:
        """Whether both losses are numbers."""
        return math.isfinite(self.sft or 0.0) and math.isfinite(self.kl or 0.0)


@dataclass
class Stepper:
    """Holds what every step needs; `run` is the step."""

    student: Any
    teacher: Teacher | None
    chat: Chat
    balance: EmaBalance | FixedBalance
    optimizer: torch.optim.Optimizer
    options: TrainOptions

    def example(self, row: Row, trajectory: list[int]) -> Example:
        """Render a row once for all three views; token ids only from here on."""
        sft = self.chat.sft_view(row.prompt, row.completion) if self.options.sft else None
        if self.teacher is None or not trajectory:
            return Example(sft, None, None)
        example = Example(sft, View(self.chat.student_prompt(row.prompt), trajectory),
                          self.teacher.view(row, trajectory))
        example.check()
        return example

    def run(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Do one optimizer step on all rows of it; returns the step's metrics.

        With one micro-batch a step Eqs. 11-12 hold exactly; with several, λ comes from the averages of
        the step before, so that cutting a step up changes nothing else.
        """
        size, exact = self.options.per_device_train_batch_size, self.options.gradient_accumulation_steps == 1
        micro_batches = [examples[start : start + size] for start in range(0, len(examples), size)]
        totals, weight = Totals.of(examples), self._lambda()
        self.optimizer.zero_grad(set_to_none=True)
        for micro_batch in micro_batches:
            with self._timed(totals, "teacher_seconds"):
                targets = self._ask_teacher(micro_batch)
            with self._timed(totals, "train_seconds"):
                sft, kl = self._losses(micro_batch, targets, totals)
                if exact and totals.both:
                    self.balance.update(**totals.magnitudes)
                    weight = self._lambda()
                terms = ([] if sft is None else [sft]) + ([] if kl is None else [weight * kl])
                if terms:
                    torch.stack(terms).sum().backward()
        if not exact and totals.both:
            self.balance.update(**totals.magnitudes)
        with self._timed(totals, "train_seconds"):
            grad_norm = self._update(totals)
        return self._metrics(totals, weight, grad_norm)

    def _ask_teacher(self, examples: Sequence[Example]) -> TopKTargets | None:
        """What should follow each trajectory token (Eqs. 7-9); None where there is none."""
        views = [example.teacher for example in examples if example.teacher]
        return self.teacher.targets(views) if self.teacher and views else None

    def _losses(
        self, examples: Sequence[Example], targets: TopKTargets | None, totals: Totals
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Both losses of a micro-batch, over the step's counts, from one pass of the student."""
        answers = [example.sft for example in examples if example.sft]
        trajectories = [example.student for example in examples if example.student]
        if not answers and not trajectories:
            return None, None
        hidden = completion_hidden(self.student, [*answers, *trajectories], self.chat.pad_id)
        sft_hidden, kl_hidden = hidden.split([_tokens(answers), _tokens(trajectories)])
        head, sft, kl = head_of(self.student), None, None
        if answers:
            ids = completion_ids(answers, hidden.device)
            sft = losses.sft_loss(sft_hidden, ids, head, totals.sft_tokens)
            totals.sft = (totals.sft or 0.0) + float(sft.detach())
            self._measure("sft", sft, sft_hidden, totals)
        if targets is not None:
            lengths = [len(view.completion) for view in trajectories]
            kl = losses.kl_loss(kl_hidden, targets, head, lengths, totals.trajectories)
            totals.kl = (totals.kl or 0.0) + float(kl.detach())
            totals.mass += float(targets.logprobs.exp().sum())
            self._measure("kl", kl, kl_hidden, totals)
        return sft, kl

    def _measure(self, term: str, loss: torch.Tensor, hidden: torch.Tensor, totals: Totals) -> None:
        """What λ balances: loss values add up over micro-batches, gradient norms as their squares."""
        before = totals.magnitudes[term]
        if self.options.balance == "gradient":
            totals.magnitudes[term] = math.hypot(before, losses.gradient_norm(loss, hidden))
        else:
            totals.magnitudes[term] = before + float(loss.detach())

    def _lambda(self) -> float:
        return self.balance.weight() if self.options.sft else 1.0

    def _update(self, totals: Totals) -> float | None:
        """Clip and step; a loss or gradient that is not finite leaves the weights alone and returns None."""
        if totals.nothing or not totals.finite:
            return None
        norm = torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.options.max_grad_norm)
        if not torch.isfinite(norm):
            return None
        self.optimizer.step()
        return float(norm)

    def _metrics(self, totals: Totals, weight: float, grad_norm: float | None) -> dict[str, Any]:
        sft, kl, tokens = totals.sft, totals.kl, totals.trajectory_tokens
        scaled = None if kl is None else weight * kl
        return {
            "loss": _finite((sft or 0.0) + (scaled or 0.0)),
            "sft_loss": _finite(sft),
            "kl_loss": _finite(kl),
            "lambda": None if kl is None else _finite(weight),
            "ce_kl_ratio": _finite(sft / scaled) if sft is not None and scaled else None,
            "teacher_mass": _finite(totals.mass / tokens) if tokens else None,
            "grad_norm": grad_norm,
            "lr": self.optimizer.param_groups[0]["lr"],
            "teacher_seconds": totals.teacher_seconds if self.teacher else None,
            "train_seconds": totals.train_seconds,
            "tokens": totals.tokens,
            "trajectories": totals.trajectories,
            "trajectory_tokens": tokens,
            "lambda_bounded": kl is not None and weight >= self.options.lambda_max,
            "skipped": grad_norm is None,
            "skipped_because": _why_skipped(totals, grad_norm),
        }

    @contextmanager
    def _timed(self, totals: Totals, name: str) -> Iterator[None]:
        with stopwatch(self.student.device) as seconds:
            yield
        setattr(totals, name, getattr(totals, name) + seconds[0])


@contextmanager
def stopwatch(device: torch.device) -> Iterator[list[float]]:
    """Wall seconds of a block, device work included."""
    seconds, start = [0.0], time.perf_counter()
    yield seconds
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds[0] = time.perf_counter() - start


def _tokens(views: Sequence[View]) -> int:
    return sum(len(view.completion) for view in views)


def _why_skipped(totals: Totals, grad_norm: float | None) -> str | None:
    if grad_norm is not None:
        return None
    return "nothing to learn from" if totals.nothing else "not finite"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
