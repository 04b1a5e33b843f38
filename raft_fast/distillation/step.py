"""One optimizer step: every term's loss, λ, backward, update (Eqs. 8-12)."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from raft_kernels import TopKTargets

from raft_fast.data.dataset import Row
from raft_fast.distillation.callbacks import NOT_FINITE
from raft_fast.distillation.examples import Counts, Example
from raft_fast.distillation.losses import Balance, Term
from raft_fast.distillation.rollouts import LESS_MEMORY
from raft_fast.distillation.teacher import Teacher
from raft_fast.distillation.weights import accumulating, whole_tensor
from raft_fast.models.chat import Chat
from raft_fast.models.packing import consecutive
from raft_fast.run.errors import UserError, first_line
from raft_fast.run.options import TrainOptions
from raft_fast.run.processes import Processes
from raft_fast.run.progress import console


@dataclass
class Stepper:
    """Holds what every step needs; `run` is the step, which all processes take together.

    student_pass: the student with the losses of `terms`, spread over the processes (`weights.spread`).
    `cut` makes micro-batches of a step, of `halved_to` rows at most where memory was too scarce for more:
    lowering them changes neither losses nor gradients at equal λ."""

    student_pass: Any
    terms: Sequence[Term]
    teacher: Teacher | None
    chat: Chat
    optimizer: torch.optim.Optimizer
    options: TrainOptions

    def __post_init__(self) -> None:
        self.balance = Balance.of(self.options)
        self.halved_to: int | None = None
        self.parameters = [p for p in self.student_pass.parameters() if p.requires_grad]
        self.device, self.processes = self.parameters[0].device, Processes()
        self.taught = [term for term in self.terms if term.taught]
        if self.taught and self.teacher is None:
            raise ValueError(f"the terms {[term.name for term in self.taught]} need a teacher")

    def cut(self, examples: Sequence[Example]) -> list[list[Example]]:
        """Micro-batches, rows in their order; one with more tokens than the limit is on its own."""
        lengths, rows = [example.tokens for example in examples], self.options.per_device_train_batch_size
        groups = consecutive(lengths, self.options.max_tokens_per_micro_batch or sum(lengths),
                             min(rows, self.halved_to or rows))
        return [[examples[index] for index in group] for group in groups]

    def example(self, row: Row, trajectories: Sequence[list[int]]) -> Example:
        """Render a row for every term; token ids only from here on."""
        return Example({term.name: term.readings(row, trajectories, self.chat) for term in self.terms})

    def run(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Do one optimizer step on all rows of it; returns the step's metrics.

        With one micro-batch Eqs. 11-12 hold exactly; with several, λ comes from the averages of the step
        before, so that cutting a step up changes nothing else."""
        counts, clock = Counts.of(examples), Clock(self.device)
        if not any(counts[term.name].tokens for term in self.terms):
            return self._metrics(counts, clock)
        micro_batches = self._own_micro_batches(examples)
        both, weighs = self._sides(counts)
        exact = both and len(micro_batches) == 1
        lambda_ = self._on_device(self.balance.weight() if weighs else 1.0)
        sums = self._on_device([0.0] * (2 * len(self.terms) + 1))
        self.optimizer.zero_grad(set_to_none=True)
        for micro_batch in micro_batches:
            is_last = micro_batch is micro_batches[-1]
            with clock.part("teacher_seconds"):
                targets = self._ask_teacher(micro_batch)
            with clock.part("train_seconds"), nullcontext() if is_last else accumulating(self.student_pass):
                losses, measures = self.student_pass(micro_batch, targets, counts)
                sums += measures
                if is_last:
                    self.processes.sum(sums)
                if exact:
                    lambda_ = self.balance.weight_with(*self._sizes(sums))
                weights = torch.stack([lambda_ * term.weight if term.balanced
                                       else torch.full_like(lambda_, term.weight) for term in self.terms])
                # gradients are averaged over the processes, and losses are parts of a sum
                (self.processes.size * (weights.float() * losses).sum()).backward()
        with clock.part("train_seconds"):
            outcome = self._update(sums, lambda_)
        if both and outcome.finite:
            self.balance.update(*outcome.sizes)
        return self._metrics(counts, clock, outcome, exact)

    def _own_micro_batches(self, examples: Sequence[Example]) -> list[list[Example]]:
        """This process's share of the step, in as many passes as the process with the most of them."""
        cuts = [self.cut(share) for share in self.processes.deal(examples)]
        own = cuts[self.processes.rank]
        return own + [[] for _ in range(max(map(len, cuts)) - len(own))]

    def _ask_teacher(self, examples: Sequence[Example]) -> dict[str, TopKTargets]:
        """What should follow each token that a taught term scores (Eqs. 7-9)."""
        views = {term.name: [reading.teacher for example in examples for reading in example.of(term.name)
                             if reading.teacher] for term in self.taught}
        return {name: self.teacher.targets(own) for name, own in views.items() if own and self.teacher}

    def _sides(self, counts: Counts) -> tuple[bool, bool]:
        """Whether the step has terms on both sides of λ; whether λ weighs any, as a given one may too."""
        sides = {term.balanced for term in self.terms if counts[term.name].sequences}
        return len(sides) == 2, len(sides) == 2 or (True in sides and self.balance.fixed is not None)

    def _sizes(self, sums: torch.Tensor) -> list[torch.Tensor]:
        """What λ balances, of terms without and with it: loss values, or norms whose squares were added."""
        norms = self.options.balance == "gradient"
        sides = [torch.zeros_like(sums[0]), torch.zeros_like(sums[0])]
        for size, term in zip(sums[len(self.terms) : -1], self.terms, strict=True):
            sides[term.balanced] = sides[term.balanced] + size * term.weight ** (2 if norms else 1)
        return [side.sqrt() for side in sides] if norms else sides

    def _update(self, sums: torch.Tensor, lambda_: torch.Tensor) -> "Outcome":
        """Clip and step; a loss or gradient that is not finite leaves the weights alone.

        Here the step waits for the device, for the first time."""
        norm = whole_tensor(torch.nn.utils.clip_grad_norm_(self.parameters, self.options.max_grad_norm))
        count = len(self.terms)
        read = torch.stack([*sums[:count], *self._sizes(sums), sums[-1], lambda_, norm.double()]).tolist()
        outcome = Outcome(read[:count], read[count : count + 2], *read[count + 2 :])
        if outcome.finite:
            self.optimizer.step()
        return outcome

    def _metrics(self, counts: Counts, clock: "Clock", outcome: "Outcome | None" = None,
                 exact: bool = False) -> dict[str, Any]:
        """What metrics.jsonl has of a step; without `outcome` there was nothing to learn from."""
        learnt, (both, weighs) = outcome is not None and outcome.finite, self._sides(counts)
        losses, scaled, lambda_, mass = dict[str, float](), dict[str, float](), None, None
        if outcome:
            lambda_ = outcome.lambda_ if weighs else None
            mass = outcome.teacher_mass / counts.taught.tokens if counts.taught.tokens else None
            for term, loss in zip(self.terms, outcome.losses, strict=True):
                if counts[term.name].sequences:
                    losses[term.name] = loss
                    scaled[term.name] = (outcome.lambda_ if term.balanced else 1.0) * term.weight * loss
        sft, kl = losses.get("sft"), scaled.get("kl")
        seconds = {"teacher_seconds": 0.0, "train_seconds": 0.0, **clock.read()}
        return {
            "loss": _finite(sum(scaled.values(), 0.0)) if outcome else None,
            "sft_loss": None, "kl_loss": None,  # there in every run, whatever its terms
            **{f"{term.name}_loss": _finite(losses.get(term.name)) for term in self.terms},
            "lambda": _finite(lambda_),
            "lambda_exact": exact if outcome and both else None,
            "ce_kl_ratio": _finite(sft / kl) if sft is not None and kl else None,
            "teacher_mass": _finite(mass),
            "grad_norm": outcome.grad_norm if outcome and learnt else None,
            "lr": self.optimizer.param_groups[0]["lr"],
            "teacher_seconds": seconds["teacher_seconds"] if self.taught else None,
            "train_seconds": seconds["train_seconds"],
            "tokens": counts.tokens,
            "trajectories": counts.taught.sequences,
            "trajectory_tokens": counts.taught.tokens,
            "lambda_bounded": self.balance.fixed is None and lambda_ == self.balance.lambda_max,
            "skipped": not learnt,
            "skipped_because": None if learnt else NOT_FINITE if outcome else "nothing to learn from",
        }

    def _on_device(self, values: float | list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.device)


class Outcome(NamedTuple):
    """What a step read from the device, all at once: a loss per term, what λ balances (of the other terms and
    of the balanced ones), the mass of the teacher's targets."""

    losses: list[float]
    sizes: list[float]
    teacher_mass: float
    lambda_: float
    grad_norm: float

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, (*self.losses, self.grad_norm)))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def run_halving(stepper: Stepper, examples: Sequence[Example], seed: int) -> dict[str, Any]:
    """`stepper.run`; out of memory, micro-batches are halved for good and the step is retried, with dropout
    from the same `seed`. λ then comes from the averages of the step before, as in any step of several
    micro-batches. Raises UserError if one row is too much, if the optimizer had begun to update weights, or
    with several processes, since the others would wait."""
    updating = list[bool]()
    hook = stepper.optimizer.register_step_pre_hook(lambda *_: updating.append(True))
    try:
        while True:
            torch.manual_seed(seed)
            try:
                return stepper.run(examples)
            except torch.OutOfMemoryError as error:
                reason = first_line(error)
            # outside of the handler: the error holds on to everything the step has made
            stepper.optimizer.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            rows = max(map(len, stepper.cut(examples)))
            if updating or rows == 1 or stepper.processes.size > 1:
                at = "in the optimizer's update" if updating else f"with {rows} rows a micro-batch"
                raise UserError(f"out of memory {at} ({reason}): {LESS_MEMORY}")
            stepper.halved_to = (rows + 1) // 2
            console.print(f"out of memory with {rows} rows a micro-batch: retrying the step with "
                          f"micro-batches of {stepper.halved_to} rows; gradients are unchanged, λ comes "
                          "from the averages of the step before", markup=False, soft_wrap=True)
    finally:
        hook.remove()


class Clock:
    """Times named parts. On a GPU events mark them: the device is not waited for before `read`."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.laps: list[tuple[str, Any, Any]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.laps.append((name, start, self._now()))

    def read(self) -> dict[str, float]:
        """Seconds a name, device work included."""
        seconds: dict[str, float] = {}
        for name, start, end in self.laps:
            if self.on_gpu:
                end.synchronize()
            took = start.elapsed_time(end) / 1000 if self.on_gpu else end - start
            seconds[name] = seconds.get(name, 0.0) + took
        return seconds

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
