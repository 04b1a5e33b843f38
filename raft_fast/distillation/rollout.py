"""The student's own trajectories z ~ p_S(. | x) (Eq. 6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from raft_fast.chat import Chat
from raft_fast.dataset import Row
from raft_fast.distillation.out_of_memory import ADVICE
from raft_fast.engines import stable_seed
from raft_fast.engines.hf import generate_ids
from raft_fast.errors import UserError
from raft_fast.progress import console

ROLLOUT_ROWS = 64  # with few rows the matrix units idle
ROLLOUT_TOKENS = 65536  # what the cache of keys and values holds at most


@dataclass
class RolloutBatch:
    """What is generated at once at most: rows, halved for good where memory runs out, and tokens,
    padding and the longest completions included."""

    rows: int = ROLLOUT_ROWS
    tokens: int = ROLLOUT_TOKENS

    def fitting(self, length: int) -> int:
        """How many rows of `length` tokens fit, one at least."""
        return max(1, min(self.rows, self.tokens // length))

    def halve(self, rows: int, reason: str) -> None:
        """Where `rows` were too many. Raises UserError where it was one."""
        if rows == 1:
            raise UserError(f"out of memory while one trajectory was sampled ({reason}): {ADVICE}")
        self.rows = (rows + 1) // 2
        console.print(f"out of memory while {rows} trajectories were sampled: {self.rows} at once from here",
                      markup=False, soft_wrap=True)


def sample_trajectories(
    student: Any, chat: Chat, requests: Sequence[tuple[int, Row]], max_new_tokens: int,
    temperature: float, seed: int, batch: RolloutBatch | None = None,
) -> list[list[int]]:
    """Completion ids for each (step, row), eos included where the student ended.

    A draw's noise depends on (seed, step, row_id) alone; its probabilities are the student's, rounded as
    the width of the batch's padding has it. Out of memory, `batch` is halved and the rows at work are
    drawn again.
    """
    batch = batch or RolloutBatch()
    prompts = [chat.student_prompt(row.prompt) for _, row in requests]
    seeds = [stable_seed(seed, step, row.row_id) for step, row in requests]
    waiting = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))  # little padding
    drawn: list[list[int]] = [[] for _ in requests]
    while waiting:
        chosen = waiting[: batch.fitting(len(prompts[waiting[0]]) + max_new_tokens)]
        try:
            completions = generate_ids(student, chat, [prompts[index] for index in chosen],
                                       max_new_tokens, temperature, [seeds[index] for index in chosen])
        except torch.OutOfMemoryError as error:
            reason = str(error).split("\n")[0]
        else:
            waiting = waiting[len(chosen) :]
            for index, completion in zip(chosen, completions, strict=True):
                drawn[index] = completion
            continue
        # outside of the handler: the error holds on to the cache of keys and values
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        batch.halve(len(chosen), reason)
    return drawn
