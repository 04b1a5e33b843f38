"""What is trained, as one function of a micro-batch: hidden states in one pass, then every term's loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from raft_kernels import TopKTargets

from raft_fast.distillation import losses
from raft_fast.distillation.examples import Counts, Example, completion_tokens
from raft_fast.distillation.losses import Term
from raft_fast.models.architecture import head_of
from raft_fast.models.chat import View
from raft_fast.models.packing import completion_hidden, completion_ids


class StudentPass(torch.nn.Module):
    """A module of the model and the loss heads together, so that DDP or FSDP2 can wrap all of it.

    by_gradient: a term's size, which λ balances, is its squared gradient norm at the hidden states
    (squares add up over micro-batches) and not its value."""

    def __init__(self, model: Any, terms: Sequence[Term], pad_id: int, by_gradient: bool) -> None:
        super().__init__()
        self.model, self.terms, self.pad_id, self.by_gradient = model, terms, pad_id, by_gradient

    def forward(self, examples: Sequence[Example], targets: Mapping[str, TopKTargets],
                counts: Counts) -> tuple[torch.Tensor, torch.Tensor]:
        """(losses [T], one a term, over the step's `counts`; measures [2 T + 1], float64, no gradient).

        Measures are losses, sizes, and the mass of the teacher's targets. All add up over the micro-batches
        of a step; a term without tokens is 0. Nothing waits for the device."""
        views = [[reading.student for example in examples for reading in example.of(term.name)]
                 for term in self.terms]
        if not any(views):
            return self._nothing()
        hidden_ND = completion_hidden(self.model, [view for own in views for view in own], self.pad_id)
        parts = hidden_ND.split([completion_tokens(own) for own in views])
        head, off = head_of(self.model), hidden_ND.new_zeros((), dtype=torch.float32)
        values, sizes = [off] * len(self.terms), [off] * len(self.terms)
        for at, (term, own, part_ND) in enumerate(zip(self.terms, views, parts, strict=True)):
            if own:
                values[at] = term.value(part_ND, own, head, targets.get(term.name), counts[term.name])
                sizes[at] = losses.squared_gradient_norm(values[at], part_ND) if self.by_gradient \
                    else values[at]
        mass = sum((told.logprobs.exp().sum() for told in targets.values()), off)
        measures = torch.stack([value.detach().double() for value in (*values, *sizes, mass)])
        return torch.stack(values), measures

    def _nothing(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Zeros by the same way, gradient included: what a process does whose share of a step is empty,
        because the others wait for its part of gradients and weights."""
        view = View([self.pad_id], [self.pad_id])
        hidden_ND = completion_hidden(self.model, [view], self.pad_id)
        ids = completion_ids([view], hidden_ND.device)
        nothing = 0 * losses.sft_loss(hidden_ND, ids, head_of(self.model), 1)
        count = len(self.terms)
        return nothing.repeat(count), nothing.detach().double().repeat(2 * count + 1)
