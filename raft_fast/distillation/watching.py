"""Callbacks that show a run: the progress line, samples, the first batch."""

import json
import re
from collections.abc import Callable, Sequence

from raft_fast.distillation.callbacks import Callback, TrainingState, cut_back
from raft_fast.models.chat import Chat, View

COMPLETIONS, FIRST_BATCH, SHOWN = "completions.jsonl", "first_batch.md", 4


class StepsInProgress(Callback):
    """Moves a phase on by its `advance`, with the losses of the last step and the last evaluation."""

    def __init__(self, advance: Callable[..., None]) -> None:
        self.advance, self.losses, self.scores = advance, "", ""

    def on_begin(self, state: TrainingState) -> None:
        self.advance(0, found=state.step)

    def on_step(self, state: TrainingState) -> None:
        terms = {key: key.removesuffix("_loss") for key in state.metrics if key.endswith("_loss")}
        shown = {"loss": "loss", **terms, "lambda": "λ", "skipped_steps": "skipped"}
        self.losses = self._shown({label: state.metrics[key] or None for key, label in shown.items()})
        self.advance(1, note=(self.losses + self.scores).strip())

    def on_evaluate(self, state: TrainingState, scores: dict[str, float | None]) -> None:
        self.scores = self._shown({name.removeprefix("eval_"): score for name, score in scores.items()})
        self.advance(0, note=(self.losses + self.scores).strip())

    def _shown(self, numbers: dict[str, float | None]) -> str:
        return "".join(f"{name} {number:.3g}  " for name, number in numbers.items() if number is not None)


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
        each = len(state.trajectories) // len(state.rows)
        with self.path.open("a", encoding="utf-8") as file:
            for place, ids in enumerate(state.trajectories[:SHOWN]):
                row = state.rows[place // each]
                file.write(json.dumps({
                    "step": state.step, "row_id": row.row_id, "prompt": row.prompt,
                    "completion": self.chat.decode(ids), "answer": row.completion, "tokens": len(ids),
                    "ended": bool(ids) and ids[-1] in self.chat.eos_ids}, ensure_ascii=False) + "\n")


class FirstBatch(Callback):
    """Writes the first four rows of step 1, from the ids that the losses saw. Text of the data is in indented
    blocks, so that nothing in it is Markdown."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat

    def on_step(self, state: TrainingState) -> None:
        if state.step != 1:
            return
        parts = ["# The first batch\n\nThe token ids of step 1 as the losses saw them, decoded with special "
                 "tokens. *masked* tokens are read and not learned from.\n"]
        for place, (row, example) in enumerate(list(zip(state.rows, state.examples, strict=True))[:SHOWN]):
            parts.append(f"## Row {place + 1}\n\n    row_id: {json.dumps(row.row_id, ensure_ascii=False)}\n")
            parts += [self.show(f"{term}, as the {reader} reads it", view)
                      for term, readings in example.readings.items() for reading in readings
                      for reader, view in vars(reading).items() if view]
        (state.run_dir / FIRST_BATCH).write_text("\n".join(parts), encoding="utf-8")

    def show(self, title: str, view: View) -> str:
        start, end = len(view.prompt), len(view.ids)
        return (f"### {title}\n\nmasked, tokens [0, {start}):\n\n{self._block(view.prompt)}\n\n"
                f"in the loss, tokens [{start}, {end}):\n\n{self._block(view.completion)}\n")

    def _block(self, ids: Sequence[int]) -> str:
        return "    " + re.sub(r"\r\n?|\n", r"\g<0>    ", self.chat.decode_all(ids))
