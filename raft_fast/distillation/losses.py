"""What stage 2 minimises: terms with names, each a sum over the step's global counts; and λ (Eqs. 11-12)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from raft_kernels import TopKTargets, cross_entropy_sum, topk_kl_loss

from raft_fast.data.dataset import Row
from raft_fast.distillation.examples import Count, Reading
from raft_fast.models.architecture import Head
from raft_fast.models.chat import Chat, View
from raft_fast.models.packing import completion_ids, to_device
from raft_fast.run.options import TrainOptions

EPSILON = 1e-8  # of λ's denominator


@dataclass(frozen=True, kw_only=True)
class Term:
    """One part of the loss, L = Σ weight · value, where λ multiplies the `balanced` terms (Eqs. 11-12).

    name: metrics.jsonl has its value as `<name>_loss`. draws: trajectories that it needs of every row.
    taught: whether the teacher reads what the student does."""

    name: str
    weight: float = 1.0
    balanced: bool = False
    draws: int = 0
    taught: bool = False

    @property
    def needs_answer(self) -> bool:
        """Whether it reads the row's answer: rows without one are refused then."""
        return True

    def readings(self, row: Row, trajectories: Sequence[list[int]], chat: Chat) -> list[Reading]:
        """What to score of a row; `trajectories` are the token ids that the student sampled for it."""
        raise NotImplementedError

    def value(self, hidden_ND: torch.Tensor, views: Sequence[View], head: Head,
              targets: TopKTargets | None, step: Count) -> torch.Tensor:
        """The loss of a micro-batch, a part of the step's: it divides by the counts of the whole `step`.

        hidden_ND: the student's states that predict the N completion tokens of `views`. targets: the
        teacher's distributions of the same tokens where the term is `taught`, else None."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Term):
    """L_SFT: the mean of -log p_S(token) over the tokens of the step's training answers."""

    name: str = "sft"

    def readings(self, row: Row, trajectories: Sequence[list[int]], chat: Chat) -> list[Reading]:
        return [Reading(chat.sft_view(row.prompt, row.completion))]

    def value(self, hidden_ND: torch.Tensor, views: Sequence[View], head: Head,
              targets: TopKTargets | None, step: Count) -> torch.Tensor:
        return sft_loss(hidden_ND, completion_ids(views, hidden_ND.device), head, step.tokens)


def answer(row: Row) -> str:
    """The training answer, as what the teacher is shown (Eq. 7)."""
    return row.completion


@dataclass(frozen=True, kw_only=True)
class Distillation(Term):
    """L_KL (Eq. 10): how far the student is from the teacher, on what the student itself has said.

    shown: what the teacher reads beside the question, by default the training answer (Eq. 7); None: only
    what the student reads. skip: first tokens of a trajectory that are read and not scored. divergence,
    beta: as in `raft_kernels.topk_kl_loss`."""

    name: str = "kl"
    draws: int = 1
    taught: bool = True
    shown: Callable[[Row], str] | None = answer
    skip: int = 0
    divergence: str = "forward_kl"
    beta: float = 0.5

    @property
    def needs_answer(self) -> bool:
        return self.shown is not None

    @classmethod
    def of(cls, options: TrainOptions, **changes: Any) -> "Distillation":
        """The term as the options ask for it, but for the `changes`."""
        return cls(**{"draws": options.num_generations, "skip": options.num_loss_tokens_to_skip,
                      "shown": answer if options.teacher_sees_answer else None,
                      "divergence": options.divergence, "beta": options.jsd_beta, **changes})

    def readings(self, row: Row, trajectories: Sequence[list[int]], chat: Chat) -> list[Reading]:
        """Token ids of every trajectory behind two prompts; those skipped are the end of a prompt."""
        spoken = [(ids[: self.skip], ids[self.skip :]) for ids in trajectories[: self.draws]]
        if not any(scored for _, scored in spoken):
            return []
        own = chat.student_prompt(row.prompt)
        taught = own if self.shown is None else chat.teacher_prompt(row.prompt, self.shown(row))
        return [Reading(View(own + skipped, scored), View(taught + skipped, scored))
                for skipped, scored in spoken if scored]

    def value(self, hidden_ND: torch.Tensor, views: Sequence[View], head: Head,
              targets: TopKTargets | None, step: Count) -> torch.Tensor:
        assert targets is not None
        return kl_loss(hidden_ND, targets, head, [len(view.completion) for view in views],
                       step.sequences, self.divergence, self.beta)


def sft_loss(hidden: torch.Tensor, targets: torch.Tensor, head: Head, step_tokens: int) -> torch.Tensor:
    """Cross-entropy of hidden [N, D] on the answers' tokens [N], summed and divided by the step's tokens."""
    return cross_entropy_sum(hidden, head.weight, targets, **head.kwargs()) / step_tokens


def kl_loss(hidden: torch.Tensor, targets: TopKTargets, head: Head, lengths: list[int], trajectories: int,
            divergence: str = "forward_kl", beta: float = 0.5) -> torch.Tensor:
    """Eq. 10 over the step's B = `trajectories` non-empty ones: each token weighs 1 / (B L_i)."""
    weights = to_device(torch.tensor([1 / (trajectories * length) for length in lengths
                                      for _ in range(length)]), hidden.device, torch.float32)
    if hidden.device.type == "cpu" and head.weight.dtype == torch.float32:
        hidden = hidden.float()  # of no more than K columns a token: bf16 gains nothing there
    head = head.like(hidden)
    return topk_kl_loss(hidden, head.weight, targets, token_weights=weights, reduction="sum",
                        divergence=divergence, beta=beta, **head.kwargs())


def squared_gradient_norm(loss: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """‖∂loss/∂hidden‖², on the device; the graph is kept for the real backward."""
    return torch.autograd.grad(loss, hidden, retain_graph=True)[0].double().square().sum()


@dataclass
class Balance:
    """λ = m̂_sft / (m̂_kl + ε), at most `lambda_max`: a KL of zero would make it unbounded (Eqs. 11-12).

    sft, kl: moving averages of the two sizes of a step, of the terms without λ and of those with it: loss
    values, or gradient norms at the hidden states. m <- beta m + (1 - beta) x, and m̂ = m / (1 - beta^steps).
    fixed: λ itself, when nothing is averaged. λ is a number and never differentiated."""

    beta: float
    lambda_max: float
    fixed: float | None = None
    sft: float = 0.0
    kl: float = 0.0
    steps: int = 0

    @classmethod
    def of(cls, options: TrainOptions) -> "Balance":
        """λ as --balance says; ema and gradient differ in the sizes that they get."""
        return cls(options.ema_beta, options.lambda_max,
                   options.fixed_lambda if options.balance == "fixed" else None)

    def update(self, sft: float, kl: float) -> None:
        if math.isfinite(sft) and math.isfinite(kl):  # one bad step must not stay in the averages
            self.sft, self.kl, self.steps = *self._averages(sft, kl), self.steps + 1

    def weight(self) -> float:
        """λ from everything seen so far; 1 before the first step."""
        if self.fixed is not None or not self.steps:
            return 1.0 if self.fixed is None else self.fixed
        scale = 1 - self.beta**self.steps
        return min(self.sft / scale / (self.kl / scale + EPSILON), self.lambda_max)

    def weight_with(self, sft: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
        """λ with the sizes of a step included that are still on the device."""
        if self.fixed is not None:
            return torch.full_like(sft, self.fixed)
        (sft, kl), scale = self._averages(sft, kl), 1 - self.beta ** (self.steps + 1)
        return (sft / scale / (kl / scale + EPSILON)).clamp(max=self.lambda_max)

    def state(self) -> dict[str, float]:
        return {"sft": self.sft, "kl": self.kl, "steps": self.steps}

    def load(self, state: dict[str, float]) -> None:
        self.sft, self.kl, self.steps = state["sft"], state["kl"], int(state["steps"])

    def _averages(self, sft: Any, kl: Any) -> tuple[Any, Any]:
        return (self.beta * self.sft + (1 - self.beta) * sft, self.beta * self.kl + (1 - self.beta) * kl)
