"""One optimizer step: both losses, λ, backward, update (Eqs. 8-12)."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from raft_fast.chat import Chat, View
from raft_fast.config import TrainOptions
from raft_fast.dataset import Row
from raft_fast.distillation import losses
from raft_fast.distillation.balance import EmaBalance, FixedBalance
from raft_fast.distillation.teacher import Teacher
from raft_fast.head import head_of
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
    """What a step adds up over its micro-batches; None where a term is off."""

    sft: float | None = None
    kl: float | None = None
    magnitudes: dict[str, float] = field(default_factory=lambda: {"sft": 0.0, "kl": 0.0})
    mass: float = 0.0
    tokens: int = 0
    teacher_seconds: float = 0.0
    train_seconds: float = 0.0


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

        With one micro-batch Eqs. 11-12 hold exactly; with several, λ comes from the averages of the
        step before, so that cutting a step up changes nothing else.
        """
        size = self.options.per_device_train_batch_size
        micro_batches = [examples[start : start + size] for start in range(0, len(examples), size)]
        sft_tokens = sum(len(example.sft.completion) for example in examples if example.sft)
        trajectories = sum(example.student is not None for example in examples)
        totals, weight = Totals(), self._lambda()
        self.optimizer.zero_grad(set_to_none=True)
        for micro_batch in micro_batches:
            sft, kl = self._losses(micro_batch, sft_tokens, trajectories, totals)
            with self._timed(totals, "train_seconds"):
                if len(micro_batches) == 1 and sft is not None and kl is not None:
                    self.balance.update(**totals.magnitudes)
                    weight = self._lambda()
                terms = ([] if sft is None else [sft]) + ([] if kl is None else [weight * kl])
                if terms:
                    torch.stack(terms).sum().backward()
        if len(micro_batches) > 1 and totals.sft is not None and totals.kl is not None:
            self.balance.update(**totals.magnitudes)
        with self._timed(totals, "train_seconds"):
            grad_norm = self._update(totals)
        return self._metrics(totals, weight, grad_norm, trajectories, examples)

    def _losses(
        self, examples: Sequence[Example], sft_tokens: int, trajectories: int, totals: Totals
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Student and teacher passes over a micro-batch; both losses over the step's counts."""
        sft_views = [example.sft for example in examples if example.sft]
        pairs = [(e.student, e.teacher) for e in examples if e.student and e.teacher]
        if not sft_views and not pairs:
            return None, None
        if pairs and self.teacher:
            with self._timed(totals, "teacher_seconds"):
                targets = self.teacher.targets([teacher for _, teacher in pairs])
        with self._timed(totals, "train_seconds"):
            views = [*sft_views, *(student for student, _ in pairs)]
            with torch.autocast(self.student.device.type, torch.bfloat16,
                                enabled=self.student.device.type == "cuda"):
                hidden = completion_hidden(self.student, views, self.chat.pad_id)
            count = sum(len(view.completion) for view in sft_views)
            sft_hidden, kl_hidden = hidden[:count], hidden[count:]
            head, sft, kl = head_of(self.student), None, None
            if sft_views:
                answers = completion_ids(sft_views, hidden.device)
                sft = losses.sft_loss(sft_hidden, answers, head, sft_tokens)
                totals.sft = (totals.sft or 0.0) + float(sft.detach())
                self._measure("sft", sft, sft_hidden, totals)
            if pairs:
                lengths = [len(student.completion) for student, _ in pairs]
                kl = losses.kl_loss(kl_hidden, targets, head, lengths, trajectories)
                totals.kl = (totals.kl or 0.0) + float(kl.detach())
                totals.mass += float(targets.logprobs.exp().sum())
                self._measure("kl", kl, kl_hidden, totals)
        totals.tokens += sum(len(view.ids) for view in views)
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
        """Clip and step; a gradient that is not finite leaves the weights alone and returns None."""
        norm = torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.options.max_grad_norm)
        if not torch.isfinite(norm) or (totals.sft is None and totals.kl is None):
            return None
        self.optimizer.step()
        return float(norm)

    def _metrics(self, totals: Totals, weight: float, grad_norm: float | None, trajectories: int,
                 examples: Sequence[Example]) -> dict[str, Any]:
        sft, kl = totals.sft, totals.kl
        kl_tokens = sum(len(example.student.completion) for example in examples if example.student)
        scaled = None if kl is None else weight * kl
        return {
            "loss": _finite((sft or 0.0) + (scaled or 0.0)),
            "sft_loss": _finite(sft),
            "kl_loss": _finite(kl),
            "lambda": None if kl is None else weight,
            "ce_kl_ratio": _finite(sft / scaled) if sft is not None and scaled else None,
            "teacher_mass": _finite(totals.mass / kl_tokens) if kl_tokens else None,
            "grad_norm": grad_norm,
            "lr": self.optimizer.param_groups[0]["lr"],
            "teacher_seconds": totals.teacher_seconds if self.teacher else None,
            "train_seconds": totals.train_seconds,
            "tokens": totals.tokens,
            "trajectories": trajectories,
            "trajectory_tokens": kl_tokens,
            "lambda_bounded": kl is not None and weight >= self.options.lambda_max,
            "skipped": grad_norm is None,
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


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
