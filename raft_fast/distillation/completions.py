"""completions.jsonl: what the student said, next to what it is trained on."""

import json
import os

from raft_fast.distillation import Callback, TrainingState
from raft_fast.distillation.metrics import cut_back
from raft_fast.models.chat import Chat

COMPLETIONS, SHOWN = "completions.jsonl", 4


class LogCompletions(Callback):
    """The first four trajectories of the first step and of every `steps`-th, as text."""

    def __init__(self, steps: int, chat: Chat) -> None:
        self.steps, self.chat = steps, chat

    def on_begin(self, state: TrainingState) -> None:
        self.path = state.run_dir / COMPLETIONS
        cut_back(self.path, state.step)

    def on_step(self, state: TrainingState) -> None:
        if state.step != 1 and state.step % self.steps:
            return
        with self.path.open("a", encoding="utf-8") as file:
            each = len(state.trajectories) // len(state.rows)
            for place, ids in enumerate(state.trajectories[:SHOWN]):
                row = state.rows[place // each]
                file.write(json.dumps({
                    "step": state.step, "row_id": row.row_id, "prompt": row.prompt,
                    "completion": self.chat.decode(ids), "answer": row.completion, "tokens": len(ids),
                    "ended": bool(ids) and ids[-1] in self.chat.eos_ids}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a torn line between others would be in the way of a run that goes on
