"""Does the engine sample from the student? Its log-probabilities against the trainer's own."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch

from raft_fast.distillation.rollouts.base import Draw, Trajectory
from raft_fast.engines.generation import own_settings
from raft_fast.models.chat import Chat, View
from raft_fast.models.head import head_of
from raft_fast.models.packing import completion_hidden, completion_ids, mixed_precision
from raft_fast.run.errors import UserError
from raft_fast.run.processes import Processes
from raft_fast.run.progress import console

CHECKED = 8  # trajectories of a refill, over all processes
ROUNDINGS = 16  # of a logit and the states behind it; SmolLM2-135M in bf16 is 6 off, on average
SUM_ROUNDINGS = 4  # times the root of the vocabulary: of a float32 sum over it; there SmolLM2-135M is 0.5 off
ANOTHER_MODEL = 0.2
"""Nats a token that no rounding explains: a temperature of 0.7 for 1 is 0.28 off on SmolLM2-135M."""
GROWTH = 1.5  # of rounding while the policy changes
SIGMAS = 4  # of a mean's standard error: chance alone warns once in ten thousand looks


class GapCheck:
    """Compares refills 0, 1, 2, 4, 8, ... of a run and the first one of every start: rarely enough to cost
    nothing, often enough to notice weights that stop arriving.

    At refill 0 engine and trainer have the model before training, whatever was handed over: how far they
    are apart there is their rounding, and later refills are held against it (`usual`). A checkpoint keeps it.

    temperature: what trajectories are sampled at.
    """

    def __init__(self, chat: Chat, temperature: float) -> None:
        self.chat, self.temperature = chat, temperature
        self.first = True  # of this start of the run: the engine may have been started anew
        self.usual: Gap | None = None

    def is_due(self, refill: int) -> bool:
        """Whether `check` will look at this refill; the same on every process."""
        return self.first or _of_the_run(refill)

    def check(self, refill: int, student: Any, draws: Sequence[Draw],
              drawn: Sequence[Trajectory]) -> float | None:
        """Mean |gap| in nats a token, the same on every process, or None where it is not this refill's turn.

        draws, drawn: this process's share, of which the first are looked at. All processes take part.
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
            raise UserError(f"{gap}: {self._cause(gap)}")
        if processes.is_first:
            self._tell(gap, self._bound(gap, student))
        self.first = False
        if refill == 0:
            self.usual = gap
        return gap.mean if _of_the_run(refill) else None

    def _compare(self, student: Any, pairs: Sequence[tuple[list[int], Trajectory]]) -> torch.Tensor:
        """The sums of a `Gap`, float64 [4]."""
        if not pairs:
            return torch.zeros(4, dtype=torch.float64, device=student.device)
        if any(one.logprobs is None for _, one in pairs):
            raise UserError("the rollout engine was asked for log-probabilities and gave none "
                            "(sample(draws, logprobs=True)): each Trajectory must have them")
        views = [View(prompt, one.ids) for prompt, one in pairs]
        told = torch.tensor([value for _, one in pairs for value in one.logprobs or ()],
                            device=student.device)
        own, plain = token_logprobs(student, self.chat, views, [self.temperature, 1.0])
        off = (told - own).double()
        return torch.stack([off.abs().sum(), (told - plain).double().abs().sum(), off.square().sum(),
                            torch.tensor(float(len(told)), dtype=torch.float64, device=student.device)])

    def _bound(self, gap: "Gap", student: Any) -> float:
        """Nats a token, on average, that rounding explains: a little more than at refill 0, and what chance
        adds on so many tokens; where that is not known, what the precision allows."""
        if self.usual is None:
            return rounding(student)
        # the spread of rounding alone: that of a stale policy would excuse itself
        chance = self.usual.spread * math.sqrt(1 / gap.tokens + 1 / self.usual.tokens)
        return max(GROWTH * (self.usual.mean + SIGMAS * chance), sum_rounding(student))

    def state(self) -> list[float] | None:
        """What `load` puts back, as JSON."""
        return list(astuple(self.usual)) if self.usual else None

    def load(self, state: list[float] | None) -> None:
        self.usual = Gap(*state) if state else None

    def _tell(self, gap: "Gap", bound: float) -> None:
        """Says so at the first look, and where it is more than `bound`."""
        if gap.mean > bound:
            _say(f"warning: {gap}, more than the {bound:.2g} of rounding: {self._cause(gap)}")
        elif self.first:
            _say(f"{gap} (rounding: up to {bound:.2g})")

    def _cause(self, gap: "Gap") -> str:
        """What it most probably is."""
        if self.temperature != 1.0 and gap.at_one < 0.5 * gap.mean:
            return (f"the engine's values are those of temperature 1, not of --rollout_temperature "
                    f"{self.temperature} (vLLM: --logprobs-mode processed_logprobs)")
        return ("the engine has other weights than the student (they did not arrive, or it is quantised), "
                "samples at another temperature, or has another tokenizer")


@dataclass(frozen=True)
class Gap:
    """Sums over `tokens` of |engine - trainer|, at the rollout temperature and at temperature 1, and of its
    square."""

    total: float
    total_at_one: float
    squares: float
    tokens: float

    def __str__(self) -> str:
        return (f"rollouts: engine and trainer are {self.mean:.2g} nats a token apart "
                f"on {self.tokens:.0f} tokens")

    @property
    def mean(self) -> float:
        return self.total / self.tokens

    @property
    def at_one(self) -> float:
        return self.total_at_one / self.tokens

    @property
    def spread(self) -> float:
        """Standard deviation over the tokens, which round independently of each other."""
        return math.sqrt(max(0.0, self.squares / self.tokens - self.mean**2))


def rounding(student: Any) -> float:
    """Nats a token that two right implementations may be apart, on average, in the precision the student
    computes in: its own roundings, and those of a float32 sum over the vocabulary."""
    with mixed_precision(student):
        kind = student.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else student.dtype
    return float(ROUNDINGS * torch.finfo(dtype).eps) + sum_rounding(student)


def sum_rounding(student: Any) -> float:
    """Of it what is left in float32: its sums over the vocabulary."""
    vocab: int = head_of(student).weight.shape[0]
    return float(SUM_ROUNDINGS * vocab**0.5 * torch.finfo(torch.float32).eps)


@torch.no_grad()
def token_logprobs(student: Any, chat: Chat, views: Sequence[View],
                   temperatures: Sequence[float]) -> list[torch.Tensor]:
    """log softmax(logits / T)[token] of the views' completion tokens, float32 [N] for each temperature, over
    the ids that engines sample from."""
    with own_settings(student):
        hidden = completion_hidden(student, views, chat.pad_id)
    answers, head = completion_ids(views, hidden.device), head_of(student)
    without = chat.lacking(head.weight.shape[0])
    return [-head.nll(hidden, answers, temperature, without) for temperature in temperatures]


def _of_the_run(refill: int) -> bool:
    """Refills 0, 1, 2, 4, 8, ...: those that metrics.jsonl tells of, however often a run was stopped."""
    return refill & (refill - 1) == 0


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
