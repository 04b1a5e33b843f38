"""Trajectories for the steps to come: one refill feeds --steps_per_generation of them."""

from collections.abc import Iterator, Sequence
from typing import Any

from raft_fast.data.dataset import Row
from raft_fast.distillation.rollouts.base import Draw, RolloutEngine
from raft_fast.distillation.rollouts.gap import GapCheck
from raft_fast.distillation.sharding import sampler
from raft_fast.engines import stable_seed
from raft_fast.models.chat import Chat
from raft_fast.run.options import TrainOptions
from raft_fast.run.processes import Processes


class RolloutBuffer:
    """Hands out the trajectories of each step, sampled from the student as it was at the last refill.

    steps: the rows of every step of the run; k trajectories are drawn for each (`draws`), and a larger k only
    adds some. Every process samples its share, and a draw is the same
    whoever makes it, as far as the engine allows. Of the last `take`: `drawn_tokens` is what it sampled, in
    all, `gap` how far engine and trainer were apart where that was looked at (`GapCheck`).
    """

    def __init__(self, engine: RolloutEngine, chat: Chat, steps: Sequence[Sequence[Row]],
                 options: TrainOptions, seed: int, draws: int = 1) -> None:
        self.engine, self.chat, self.steps, self.seed = engine, chat, steps, seed
        self.draws = draws
        self.every = options.steps_per_generation
        self.check = GapCheck(chat, options.rollout_temperature)
        self.waiting: dict[int, list[list[int]]] = {}
        self.drawn_tokens = 0
        self.gap: float | None = None

    def take(self, step: int, student: Any) -> list[list[int]]:
        """Token ids of the step's trajectories, k for each row, row by row; steps count from 0. All processes
        take part. Raises UserError where the engine samples from another model."""
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
