"""The frozen original model, shown the answer, says what should follow each student token (Eqs. 7-9)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from raft_kernels import TopKTargets, topk_targets

from raft_fast.chat import Chat, View
from raft_fast.dataset import Row
from raft_fast.errors import UserError
from raft_fast.head import head_of
from raft_fast.packing import completion_hidden

Teaching = Callable[[], AbstractContextManager[None]]


class Teacher:
    """A model that is never trained; `sees_answer` decides which prompt it is shown (Eq. 7): `prompt` gives
    the token ids of a row's.

    Ids at or above `student_vocab` are never among the targets: the student has no row for them.
    `teaching` opens the context in which the model is the original, where it is the student otherwise
    (LoRA); a model of its own is frozen for good.
    """

    def __init__(self, model: Any, chat: Chat, k: int, temperature: float, sees_answer: bool,
                 student_vocab: int | None = None, teaching: Teaching | None = None) -> None:
        self.model = model if teaching else model.eval().requires_grad_(False)
        self.teaching: Teaching = teaching or nullcontext
        self.chat, self.temperature = chat, temperature
        self.prompt = self._informed_prompt if sees_answer else self._plain_prompt
        self.head = head_of(model)
        rows = self.head.weight.shape[0]  # heads of one family may be padded to different lengths
        self.vocab_size = min(rows, student_vocab or rows)
        if k > self.vocab_size:
            raise UserError(f"--teacher_top_k {k}: the vocabulary has only {self.vocab_size} tokens")
        self.k = k

    @torch.no_grad()
    def targets(self, views: Sequence[View]) -> TopKTargets:
        """K ids and log-probabilities at temperature T for all N completion tokens, row by row."""
        with self.teaching():
            assert not self.model.training, "the teacher never drops out and never recomputes"
            hidden = completion_hidden(self.model, views, self.chat.pad_id)
        return topk_targets(hidden, self.head.weight, self.k, self.temperature,
                            vocab_size=self.vocab_size, **self.head.kwargs())

    def _informed_prompt(self, row: Row) -> list[int]:
        return self.chat.teacher_prompt(row.prompt, row.completion)

    def _plain_prompt(self, row: Row) -> list[int]:
        return self.chat.student_prompt(row.prompt)
