"""Tokens that enter a step at equal work: ours packed, with beginnings read once, TRL's padded on both sides.

    python -m benchmarks.step.counted

The rows of `benchmarks.step`, all trajectories as long as they may be; means of ten steps. No weights
are read.
"""

from transformers import AutoTokenizer, GenerationConfig

from benchmarks import measure
from benchmarks.step.ours import Job
from raft_fast.models.chat import Chat, View
from raft_fast.models.fetch import fetch_model
from raft_fast.models.packing import lay_out
from raft_fast.run.options import SMOLLM2

STEPS = 10


def main() -> None:
    measure.parser(__doc__).parse_args()
    folder = fetch_model(SMOLLM2)
    chat = Chat(AutoTokenizer.from_pretrained(folder), GenerationConfig.from_pretrained(folder))
    table = []
    for rows, length in ((4, 48), (8, 48), (16, 48), (16, 128)):
        steps = Job(SMOLLM2, "cpu", rows, STEPS, length, 512).plan()[:STEPS]
        student = [[View(chat.student_prompt(row.prompt), [0] * length) for row in step] for step in steps]
        teacher = [[View(chat.teacher_prompt(row.prompt, row.completion), [0] * length) for row in step]
                   for step in steps]
        table.append([str(rows), str(length)])
        for views in (student, teacher):
            ours = sum(one.added for step in views for one in lay_out(step, share=True)) / STEPS
            theirs = sum(len(step) * (length + max(len(view.prompt) for view in step))
                         for step in views) / STEPS
            table[-1] += [f"{ours:,.0f}", f"{theirs:,.0f}", f"{theirs / ours:.2f}"]
    measure.show("", ("rows", "completion", *(f"{who} {what}" for who in ("student,", "teacher,")
                                              for what in ("ours", "TRL", "TRL / ours"))), table)


if __name__ == "__main__":
    main()
