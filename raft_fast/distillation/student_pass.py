"""What is trained, as one function of a micro-batch: hidden states in one pass, then both losses."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from raft_kernels import TopKTargets

from raft_fast.distillation import losses
from raft_fast.distillation.examples import Counts, Example, completion_tokens
from raft_fast.models.chat import View
from raft_fast.models.head import head_of
from raft_fast.models.packing import completion_hidden, completion_ids

MEASURES = ("sft_loss", "kl_loss", "sft_size", "kl_size", "teacher_mass")


class StudentPass(torch.nn.Module):
    """A module of the model and the loss heads together, so that DDP or FSDP2 can wrap all of it.

    by_gradient: a term's size, which λ balances, is its squared gradient norm at the hidden states
    (squares add up over micro-batches) and not its value.
    """

    def __init__(self, model: Any, pad_id: int, by_gradient: bool) -> None:
        super().__init__()
        self.model, self.pad_id, self.by_gradient = model, pad_id, by_gradient

    def forward(self, examples: Sequence[Example], targets: TopKTargets | None,
                counts: Counts) -> tuple[torch.Tensor, torch.Tensor]:
        """(losses [2]: SFT and KL over the step's `counts`; MEASURES [5] float64 without gradient).

        Both add up over the micro-batches of a step; a term that is off is 0. Nothing waits for the
        device. Examples without any view, or none at all, give 0 by the same way, gradient included: what
        a process does whose share of a step is empty, because the others wait for its part of gradients
        and weights.
        """
        if not any(example.tokens for example in examples):
            nothing = Example(View([self.pad_id], [self.pad_id]), None, None)
            terms, measures = self.forward([nothing], None, replace(counts, sft_tokens=1))
            return 0 * terms, 0 * measures
        answers = [example.sft for example in examples if example.sft]
        trajectories = [example.student for example in examples if example.student]
        hidden = completion_hidden(self.model, [*answers, *trajectories], self.pad_id)
        sft_hidden, kl_hidden = hidden.split([completion_tokens(answers), completion_tokens(trajectories)])
        head, off = head_of(self.model), hidden.new_zeros((), dtype=torch.float32)
        sft = kl = sft_size = kl_size = mass = off
        if answers:
            sft = losses.sft_loss(sft_hidden, completion_ids(answers, hidden.device), head, counts.sft_tokens)
            sft_size = self._size(sft, sft_hidden)
        if targets is not None:
            lengths = [len(view.completion) for view in trajectories]
            kl = losses.kl_loss(kl_hidden, targets, head, lengths, counts.trajectories)
            kl_size, mass = self._size(kl, kl_hidden), targets.logprobs.exp().sum()
        measures = torch.stack([value.detach().double() for value in (sft, kl, sft_size, kl_size, mass)])
        return torch.stack([sft, kl]), measures

    def _size(self, loss: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        return losses.squared_gradient_norm(loss, hidden) if self.by_gradient else loss
