"""Tokens that enter a step at equal work: ours packed, with beginnings read once, TRL's padded on both sides.

    python -m benchmarks.step.counted

The rows of `benchmarks.step`, all trajectories as long as they may be; means of ten steps. No weights
are read.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, GenerationConfig

from benchmarks.step.inputs import Job
from raft_fast.models.chat import Chat, View
from raft_fast.models.fetch import fetch_model
from raft_fast.models.packing import lay_out
from raft_fast.run.options import SMOLLM2

STEPS = 10


def main() -> None:
    folder = fetch_model(SMOLLM2)
    chat = Chat(AutoTokenizer.from_pretrained(folder), GenerationConfig.from_pretrained(folder))
    table = Table("rows", "completion", *(f"{who}{what}" for who in ("student", "teacher")
                                          for what in (", ours", ", TRL", ": TRL / ours")))
    for rows, length in ((4, 48), (8, 48), (16, 48), (16, 128)):
        steps = Job(SMOLLM2, "cpu", rows, STEPS, length, 512).plan()[:STEPS]
        drawn = [0] * length
        read = [[View(chat.student_prompt(row.prompt), drawn) for row in step] for step in steps]
        taught = [[View(chat.teacher_prompt(row.prompt, row.completion), drawn) for row in step]
                  for step in steps]
        cells = [cell for views in (read, taught) for cell in compared(views)]
        table.add_row(str(rows), str(length), *cells)
    Console(width=120).print(table)


def compared(steps: Sequence[Sequence[View]]) -> list[str]:
    """Tokens a step, ours and TRL's, and how many times ours theirs are."""
    ours = sum(one.added for views in steps for one in lay_out(views, share=True)) / len(steps)
    theirs = sum(map(padded, steps)) / len(steps)
    return [f"{ours:,.0f}", f"{theirs:,.0f}", f"{theirs / ours:.2f}"]


def padded(views: Sequence[View]) -> int:
    """Prompts are padded to the longest on the left, completions on the right."""
    longest = [max(map(len, parts)) for parts in zip(*((view.prompt, view.completion) for view in views),
                                                     strict=True)]
    return len(views) * sum(longest)


if __name__ == "__main__":
    main()
