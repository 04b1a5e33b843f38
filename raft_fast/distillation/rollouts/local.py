"""Rollouts of the student in this process: `--rollout_engine transformers` and `continuous`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from raft_fast.distillation.rollouts.base import Draw, Trajectory
from raft_fast.distillation.weights import copied
from raft_fast.engines import Sampling, stable_seed
from raft_fast.engines.generation import draw_continuously, generate_ids, sample_ids
from raft_fast.models.chat import Chat
from raft_fast.run.errors import UserError, first_line
from raft_fast.run.progress import console

ROLLOUT_ROWS = 64  # with few rows the matrix units idle
ROLLOUT_TOKENS = 65536  # what the cache of keys and values holds at most
ADVICE = "--gradient_checkpointing true and, where rows share a pass, --max_tokens_per_micro_batch 4096 " \
         "need less, and a run goes on with them; --use_peft true needs least, a shorter --max_length or " \
         "--max_completion_length less: a run that has done a step needs another --output_dir for these"


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


class BatchedRollouts:
    """Samples from the student itself. A draw's noise depends on its seed alone; its probabilities are the
    student's, rounded as the width of the batch's padding has it. (Where rotary frequencies depend on the
    longest sequence of a pass, a draw's are its batch's: so `generate` is.)

    Out of memory, `batch` is halved and the rows at work are drawn again.
    """

    def __init__(self, chat: Chat, sampling: Sampling, batch: RolloutBatch | None = None) -> None:
        self.chat, self.sampling, self.batch = chat, sampling, batch or RolloutBatch()
        self.student: Any = None

    def sync(self, student: Any) -> None:
        self.student = student

    def sample(self, draws: Sequence[Draw], logprobs: bool = False) -> list[Trajectory]:
        waiting = sorted(range(len(draws)), key=lambda index: -len(draws[index].prompt))  # little padding
        drawn: list[Trajectory] = [Trajectory([], [])] * len(draws)
        while waiting:
            longest = len(draws[waiting[0]].prompt) + self.sampling.max_new_tokens
            chosen = waiting[: self.batch.fitting(longest)]
            try:
                found = self._generate([draws[index] for index in chosen], logprobs)
            except torch.OutOfMemoryError as error:
                reason = first_line(error)
            else:
                waiting = waiting[len(chosen) :]
                for index, trajectory in zip(chosen, found, strict=True):
                    drawn[index] = trajectory
                continue
            # outside of the handler: the error holds on to the cache of keys and values
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.batch.halve(len(chosen), reason)
        self.student = None  # a copy of a sharded one is in nobody's way while the student trains
        return drawn

    def state(self) -> dict[str, Any]:
        return {"rollout_rows": self.batch.rows}

    def load(self, state: dict[str, Any]) -> None:
        self.batch.rows = state.get("rollout_rows", self.batch.rows)

    def _generate(self, draws: Sequence[Draw], logprobs: bool) -> list[Trajectory]:
        asked = (self.student, self.chat, [draw.prompt for draw in draws], self.sampling.max_new_tokens,
                 self.sampling.temperature, [draw.seed for draw in draws])
        if not logprobs:  # a tenth faster
            return [Trajectory(ids) for ids in generate_ids(*asked)]
        return [Trajectory(ids, told) for ids, told in sample_ids(*asked)]


class ContinuousRollouts:
    """transformers' continuous batching, for a GPU: a finished trajectory's place is taken by the next prompt
    at once. Samples from the student, or where it trains in float32 on a GPU from a bf16 copy of it.

    Noise comes from one stream for all that is in flight, seeded by the draws: the same refill may still draw
    otherwise, because the order differs. `settings` is a transformers ContinuousBatchingConfig; by default
    the free memory decides.
    """

    def __init__(self, chat: Chat, sampling: Sampling, settings: Any = None) -> None:
        self.chat, self.sampling, self.settings = chat, sampling, settings
        self.student: Any = None

    def sync(self, student: Any) -> None:
        autocast = student.device.type == "cuda" and student.dtype == torch.float32
        self.student = copied(student, torch.bfloat16) if autocast else student

    def sample(self, draws: Sequence[Draw], logprobs: bool = False) -> list[Trajectory]:
        student, self.student = self.student, None
        if not draws:
            return []
        seed = stable_seed([draw.seed for draw in draws])
        found = draw_continuously(student, self.chat, [draw.prompt for draw in draws],
                                  replace(self.sampling, seed=seed), self.settings, logprobs)
        return [Trajectory(list(one.generated_tokens), list(one.logprobs) if logprobs else None)
                for one in found]

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: dict[str, Any]) -> None:
        pass
