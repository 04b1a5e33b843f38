"""Trajectories for the steps to come, and the check that the engine samples from the student."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch

from raft_fast.data.dataset import Row
from raft_fast.distillation.rollouts.base import Draw, RolloutEngine, Trajectory
from raft_fast.distillation.weights import sampler
from raft_fast.engines import stable_seed
from raft_fast.engines.generation import own_settings
from raft_fast.models.architecture import head_of
from raft_fast.models.chat import Chat, View
from raft_fast.models.packing import completion_hidden, completion_ids, mixed_precision
from raft_fast.run.errors import UserError
from raft_fast.run.options import TrainOptions
from raft_fast.run.processes import Processes
from raft_fast.run.progress import console

CHECKED = 8  # trajectories of a refill that are compared, over all processes
ROUNDINGS = 16  # of a logit and the states behind it; SmolLM2-135M in bf16 is 6 off, on average
SUM_ROUNDINGS = 4  # times the root of the vocabulary: of a float32 sum over it; there SmolLM2-135M is 0.5 off
ANOTHER_MODEL = 0.2  # nats a token that no rounding explains: a temperature of 0.7 for 1 is 0.28 off
GROWTH = 1.5  # of rounding while the policy changes
SIGMAS = 4  # of a mean's standard error: chance alone warns once in ten thousand looks
CAUSE = ("the engine has other weights than the student (they did not arrive, or it is quantised), samples "
         "at another temperature (vLLM: --logprobs-mode processed_logprobs), or has another tokenizer")


class RolloutBuffer:
    """Hands out the trajectories of each step, sampled from the student as it was at the last refill.

    steps: the rows of every step of the run; `draws` trajectories are sampled for each, and a larger number
    only adds some. One refill feeds --steps_per_generation steps. Every process samples its share, and a draw
    is the same whoever makes it, as far as the engine allows. Of the last `take`: `drawn_tokens` is what was
    sampled, in all, `gap` the distance of engine and trainer where it was looked at (`GapCheck`).
    """

    def __init__(self, engine: RolloutEngine, chat: Chat, steps: Sequence[Sequence[Row]],
                 options: TrainOptions, seed: int, draws: int = 1) -> None:
        self.engine, self.chat, self.steps, self.seed, self.draws = engine, chat, steps, seed, draws
        self.every = options.steps_per_generation
        self.check = GapCheck(chat, options.rollout_temperature)
        self.waiting: dict[int, list[list[int]]] = {}
        self.drawn_tokens = 0
        self.gap: float | None = None

    def take(self, step: int, student: Any) -> list[list[int]]:
        """Token ids of the step's trajectories, row by row; steps count from 0. All processes take part.
        Raises UserError where the engine samples from another model."""
        self.drawn_tokens, self.gap = 0, None
        if step not in self.waiting:
            self._refill(range(step, min(step + self.every, len(self.steps))), student)
        return self.waiting.pop(step)

    def _refill(self, fed: range, student: Any) -> None:
        processes = Processes()
        shares = processes.deal([draw for step in fed for draw in self._draws(step)])
        share, whole = shares[processes.rank], sampler(student)
        refill = fed.start // self.every
        self.engine.sync(whole)
        drawn = processes.together(lambda: self.engine.sample(share, logprobs=self.check.is_due(refill)))
        self.gap = self.check.check(refill, whole, share, drawn)
        every = processes.collect([trajectory.ids for trajectory in drawn])
        self.drawn_tokens = sum(map(len, every))
        one = iter(every)
        self.waiting = {step: [next(one) for _ in range(self.draws * len(self.steps[step]))] for step in fed}

    def _draws(self, step: int) -> Iterator[Draw]:
        for row in self.steps[step]:
            prompt = self.chat.student_prompt(row.prompt)
            for number in range(self.draws):  # the first is the one that would be drawn alone
                yield Draw(prompt, stable_seed(self.seed, step, row.row_id, *([number] if number else [])))

    def state(self) -> dict[str, list[list[int]]]:
        """What waits for later steps, as JSON; the same on every process."""
        return {str(step): ids for step, ids in self.waiting.items()}

    def load(self, state: dict[str, list[list[int]]]) -> None:
        self.waiting = {int(step): ids for step, ids in state.items()}


@dataclass(frozen=True)
class Gap:
    """Sums of |engine - trainer| in nats, and of its square, over so many tokens."""

    total: float
    squares: float
    tokens: float

    @property
    def mean(self) -> float:
        return self.total / self.tokens

    @property
    def spread(self) -> float:
        """Standard deviation over the tokens, which round independently of each other."""
        return math.sqrt(max(0.0, self.squares / self.tokens - self.mean**2))

    def __str__(self) -> str:
        return (f"rollout engine and trainer log-probs differ by {self.mean:.2g} nats/token "
                f"({self.tokens:.0f} tokens)")


class GapCheck:
    """Compares the engine's log-probabilities with the trainer's own, at refills 0, 1, 2, 4, 8, ... and the
    first of every start: rarely enough to cost nothing, often enough to notice weights that stop arriving.

    At refill 0 both have the model before training, whatever was handed over: their distance there is
    rounding (`usual`, kept in checkpoints), and later refills are held against it.
    """

    def __init__(self, chat: Chat, temperature: float) -> None:
        self.chat, self.temperature = chat, temperature
        self.first = True  # of this start of the run: the engine may have been started anew
        self.usual: Gap | None = None

    def is_due(self, refill: int) -> bool:
        """Whether `check` will look at this refill; the same on every process."""
        return self.first or _regular(refill)

    def check(self, refill: int, student: Any, draws: Sequence[Draw],
              drawn: Sequence[Trajectory]) -> float | None:
        """Mean |gap| in nats a token for metrics.jsonl, None at other refills; the same on every process.

        draws, drawn: this process's share, of which the first are compared. All processes take part.
        Raises UserError where engine and student are two models.
        """
        if not self.is_due(refill):
            return None
        processes = Processes()
        share = range(processes.rank, CHECKED, processes.size)  # the same trajectories for any number of them
        chosen = list(zip(draws, drawn, strict=True))[: len(share)]
        found = self._compare(student, [(draw.prompt, one) for draw, one in chosen if one.ids])
        gap = Gap(*processes.sum(found).tolist())
        if not gap.tokens:
            return None
        if not gap.mean <= max(ANOTHER_MODEL, 2 * rounding(student)):  # a NaN too
            raise UserError(f"{gap}: {CAUSE}")
        bound, told = self._bound(gap, student), None
        if gap.mean > bound:
            told = f"warning: {gap}, more than the {bound:.2g} of rounding: {CAUSE}"
        elif self.first:
            told = f"{gap}; rounding explains up to {bound:.2g}"
        if told and processes.is_first:
            console.print(told, markup=False, soft_wrap=True)
        self.first = False
        self.usual = gap if refill == 0 else self.usual
        return gap.mean if _regular(refill) else None

    def _compare(self, student: Any, pairs: Sequence[tuple[list[int], Trajectory]]) -> torch.Tensor:
        """The sums of a `Gap`, float64 [3]."""
        if not pairs:
            return torch.zeros(3, dtype=torch.float64, device=student.device)
        if any(one.logprobs is None for _, one in pairs):
            raise UserError("the rollout engine was asked for log-probabilities and gave none "
                            "(sample(draws, logprobs=True)): each Trajectory must have them")
        views = [View(prompt, one.ids) for prompt, one in pairs]
        told = torch.tensor([value for _, one in pairs for value in one.logprobs or ()],
                            device=student.device)
        with torch.no_grad(), own_settings(student):
            hidden, head = completion_hidden(student, views, self.chat.pad_id), head_of(student)
            own = -head.nll(hidden, completion_ids(views, hidden.device), self.temperature,
                            self.chat.lacking(head.weight.shape[0]))
        off = (told - own).double()
        return torch.stack([off.abs().sum(), off.square().sum(), torch.full_like(off.sum(), len(told))])

    def _bound(self, gap: Gap, student: Any) -> float:
        """Nats a token, on average, that rounding explains: a little more than at refill 0, and what chance
        adds on so many tokens; where that is not known, what the precision allows."""
        if self.usual is None:
            return rounding(student)
        # the spread of rounding alone: that of a stale policy would excuse itself
        chance = self.usual.spread * math.sqrt(1 / gap.tokens + 1 / self.usual.tokens)
        return max(GROWTH * (self.usual.mean + SIGMAS * chance), rounding(student, torch.float32))

    def state(self) -> list[float] | None:
        """What `load` puts back, as JSON."""
        return list(astuple(self.usual)) if self.usual else None

    def load(self, state: list[float] | None) -> None:
        self.usual = Gap(*state) if state else None


def rounding(student: Any, dtype: torch.dtype | None = None) -> float:
    """Nats a token that two right implementations may differ by, on average, in the precision the student
    computes in: its own roundings, and those of a float32 sum over the vocabulary (the latter alone for
    float32)."""
    vocab: int = head_of(student).weight.shape[0]
    sums = SUM_ROUNDINGS * vocab**0.5 * torch.finfo(torch.float32).eps
    if dtype == torch.float32:
        return float(sums)
    with mixed_precision(student):
        kind = student.device.type
        own = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else student.dtype
    return float(ROUNDINGS * torch.finfo(own).eps + sums)


def _regular(refill: int) -> bool:
    """Refills 0, 1, 2, 4, 8, ...: those that metrics.jsonl tells of, however often a run was stopped."""
    return refill & (refill - 1) == 0
