"""first_batch.md: what student and teacher read in the first step, special tokens and masks in sight."""

import re
from collections.abc import Sequence

from raft_fast.chat import Chat, View
from raft_fast.distillation import Callback, TrainingState

FIRST_BATCH, SHOWN = "first_batch.md", 4
HEAD = """# The first batch

The token ids that went into step 1, decoded with their special tokens. What is *masked* is read and not
learnt from: a prompt. Look whether each view begins and ends as your model's chat template has it, whether
the teacher is shown the answer, and whether nothing of a prompt is scored.
"""


class FirstBatch(Callback):
    """Writes the first four rows of step 1, from the ids that the losses saw."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat

    def on_step(self, state: TrainingState) -> None:
        if state.step != 1:
            return
        parts = [HEAD]
        for row, example in list(zip(state.rows, state.examples, strict=True))[:SHOWN]:
            parts.append(f"## row_id {row.row_id}\n")
            for name, view in (("Answer to train on (SFT)", example.sft),
                               ("Trajectory, as the student reads it", example.student),
                               ("Trajectory, as the teacher reads it", example.teacher)):
                parts.append(f"### {name}\n")
                parts += self._shown(view)
        (state.run_dir / FIRST_BATCH).write_text("\n".join(parts), encoding="utf-8")

    def _shown(self, view: View | None) -> list[str]:
        if view is None:
            return ["None: the term is off, or the trajectory is empty.\n"]
        return [self._block("masked", view.prompt), self._block("in the loss", view.completion)]

    def _block(self, what: str, ids: Sequence[int]) -> str:
        text = self.chat.decode_all(ids)
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        return f"{what}, {len(ids)} tokens:\n\n{fence}text\n{text}\n{fence}\n"
