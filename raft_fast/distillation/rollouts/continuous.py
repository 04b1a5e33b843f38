"""transformers' continuous batching, for a GPU: `--rollout_engine continuous`.

A finished trajectory's place is taken by the next prompt at once. Noise comes from one stream for all that
is in flight, seeded by the draws: the same refill may still draw otherwise, because the order differs.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from raft_fast.distillation.rollouts.base import Draw, Trajectory
from raft_fast.distillation.sharding import copied
from raft_fast.engines import Sampling, stable_seed
from raft_fast.engines.continuous import draw_continuously
from raft_fast.models.chat import Chat
from raft_fast.run.errors import UserError


class ContinuousRollouts:
    """Samples from the student, or where it trains in float32 on a GPU from a bf16 copy of it, which lives
    while rollouts last.

    `settings` is a transformers ContinuousBatchingConfig; by default the free memory decides.
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
        for one in found:
            if one is None or one.error is not None:
                why = "its scheduler stopped" if one is None else one.error
                raise UserError(f"--rollout_engine continuous: a trajectory did not come back ({why}); use "
                                "--rollout_engine transformers")
        return [Trajectory(list(one.generated_tokens), list(one.logprobs) if logprobs else None)
                for one in found]

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: dict[str, Any]) -> None:
        pass
