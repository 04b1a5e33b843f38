"""The frozen original model, shown the answer, says what should follow each student token (Eqs. 7-9)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from raft_kernels import TopKTargets, topk_targets

from raft_fast.models.architecture import head_of
from raft_fast.models.chat import Chat, View
from raft_fast.models.packing import completion_hidden
from raft_fast.run.errors import UserError

Teaching = Callable[[], AbstractContextManager[None]]


class Teacher:
    """A model that is never trained. What it is shown beside the question is a term's matter (Eq. 7).

    Ids at or above `student_vocab` are never among the targets, as the student has no row for them, nor are
    those that the tokenizer lacks.
    `teaching` opens the context in which the model is the original, where it is the student otherwise
    (LoRA); a model of its own is frozen for good."""

    def __init__(self, model: Any, chat: Chat, k: int, temperature: float,
                 student_vocab: int | None = None, teaching: Teaching | None = None) -> None:
        self.model = model if teaching else model.eval().requires_grad_(False)
        self.teaching: Teaching = teaching or nullcontext
        self.chat, self.temperature = chat, temperature
        self.head = head_of(model)
        rows = shared_rows(k, self.head.weight.shape[0], student_vocab)
        known = sorted(chat.below(rows).ids)
        self.vocab_size, self.k = known[-1] + 1, min(k, len(known))
        self.holes = chat.lacking(self.vocab_size)

    @torch.no_grad()
    def targets(self, views: Sequence[View]) -> TopKTargets:
        """K ids and log-probabilities at temperature T for all N completion tokens, row by row."""
        with self.teaching():
            assert not self.model.training, "the teacher never drops out and never recomputes"
            hidden = completion_hidden(self.model, views, self.chat.pad_id)
        found = topk_targets(hidden, self.head.weight, self.k + len(self.holes), self.temperature,
                             vocab_size=self.vocab_size, **self.head.kwargs())
        if not self.holes:
            return found
        last = torch.isin(found.ids, torch.tensor(self.holes, device=found.ids.device)).byte()
        order = last.sort(dim=-1, stable=True).indices[..., : self.k]  # the k best of the others
        return replace(found, ids=found.ids.gather(-1, order), logprobs=found.logprobs.gather(-1, order),
                       checked=True)


def shared_rows(k: int, teacher: int, student: int | None) -> int:
    """The rows that both vocabularies have: heads of one family may be padded to different lengths. Raises
    UserError where they are fewer than the `k` tokens of --teacher_top_k."""
    rows = min(teacher, student or teacher)
    if k > rows:
        raise UserError(f"--teacher_top_k {k}: the vocabulary has only {rows} tokens")
    return rows
