"""first_batch.md: what student and teacher read in the first step, special tokens and masks in sight."""

import json
import re
from collections import Counter
from collections.abc import Sequence

from raft_fast.distillation import Callback, TrainingState
from raft_fast.distillation.examples import Reading
from raft_fast.models.chat import Chat, View

FIRST_BATCH, SHOWN = "first_batch.md", 4
HEAD = """# The first batch

The token ids that went into step 1, decoded with their special tokens. What is *masked* is read and not
learnt from: a prompt. Look whether each view begins and ends as your model's chat template has it, whether
the teacher is shown the answer, and whether nothing of a prompt is scored. Control marks in the text of a row
are plain text to the model, and look the same here: what a view really has stands under *Control tokens*.
What the template writes:
"""


class FirstBatch(Callback):
    """Writes the first four rows of step 1, from the ids that the losses saw."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat

    def on_step(self, state: TrainingState) -> None:
        if state.step != 1:
            return
        parts = [HEAD, *(f"- {said}" for said in self.chat.template.known()), ""]
        for row, example in list(zip(state.rows, state.examples, strict=True))[:SHOWN]:
            parts.append(f"## row_id {_inline(row.row_id)}\n")
            for term, readings in example.readings.items():
                parts += self._term(term, readings)
        (state.run_dir / FIRST_BATCH).write_text("\n".join(parts), encoding="utf-8")

    def _term(self, term: str, readings: Sequence[Reading]) -> list[str]:
        if not readings:
            return [f"### Trajectory ({term})\n", "None: the trajectory is empty.\n"]
        parts = []
        for reading in readings:
            if reading.teacher is None:
                parts += [f"### Answer to train on ({term.upper()})\n", *self._shown(reading.student)]
                continue
            for who, view in (("student", reading.student), ("teacher", reading.teacher)):
                parts += [f"### Trajectory, as the {who} reads it ({term.upper()})\n", *self._shown(view)]
        return parts

    def _shown(self, view: View) -> list[str]:
        start, end = len(view.prompt), len(view.ids)
        return [f"Token spans: masked [0, {start}), in the loss [{start}, {end}).\n",
                f"Control tokens: {self._controls(view.ids)}.\n",
                self._block("masked", view.prompt), self._block("in the loss", view.completion)]

    def _controls(self, ids: Sequence[int]) -> str:
        """The control tokens among the ids, with how many of each."""
        found = Counter(name for token in ids if (name := self.chat.template.control_ids.get(token)))
        return ", ".join(f"{_code(name)} {count}" for name, count in found.items()) or "none"

    def _block(self, what: str, ids: Sequence[int]) -> str:
        text = self.chat.decode_all(ids)
        fence = _fence(text, 3)
        return f"{what}, {len(ids)} tokens:\n\n{fence}text\n{text}\n{fence}\n"


def _inline(text: str) -> str:
    """A text of the data's inside a line: as it is where no markup can be in it, else as code."""
    if re.fullmatch(r"[\w .:/-]*", text):
        return text
    return _code(json.dumps(text, ensure_ascii=False))


def _code(text: str) -> str:
    fence = _fence(text, 1)
    return f"{fence}{text}{fence}" if "`" not in text else f"{fence} {text} {fence}"


def _fence(text: str, least: int) -> str:
    """Backticks that nothing in the text can close."""
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))
