"""Which rows every optimizer step has, how long rows are, and which fit."""

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from raft_fast.data.dataset import Rejected, Row
from raft_fast.distillation.checkpoint import batch, newest_state
from raft_fast.distillation.losses import Term
from raft_fast.models.chat import Chat, View
from raft_fast.run.errors import UserError
from raft_fast.run.options import TrainOptions
from raft_fast.run.processes import Processes


def rows_per_step(options: TrainOptions, run_dir: Path) -> int:
    """Rows of an optimizer step over all processes; a resumed run keeps the number that it began with, on any
    number of processes. Raises UserError if options that changed ask for another number."""
    processes = Processes()
    size = math.prod(batch(options)) * processes.size

    def kept() -> int:
        state = newest_state(run_dir / "checkpoints")
        rows = int(state.get("rows_per_step", size))
        if rows != size and state["batch"] != batch(options):
            flags = "--per_device_train_batch_size {} --gradient_accumulation_steps {}"
            raise UserError(f"{flags.format(*batch(options))}: {size} rows a step (processes: "
                            f"{processes.size}), and the run in {run_dir} has {rows}; resume it with as "
                            f"many, or as it began: {flags.format(*state['batch'])}")
        return rows

    return processes.first(kept)


def step_count(rows: int, options: TrainOptions, size: int) -> int:
    """Optimizer steps of a run. As in transformers, --max_steps decides alone where it is given."""
    return options.max_steps if options.max_steps > 0 else options.num_train_epochs * -(-rows // size)


def plan(rows: Sequence[Row], options: TrainOptions, seed: int, size: int) -> list[list[Row]]:
    """The `size` rows of every optimizer step: each epoch in its own order, its last step may be short."""
    steps: list[list[Row]] = []
    count, epoch = step_count(len(rows), options, size), 0
    while len(steps) < count:
        order = list(rows)
        random.Random(f"{seed} {epoch}").shuffle(order)
        steps += [order[start : start + size] for start in range(0, len(order), size)]
        epoch += 1
    return steps[:count]


def fitting(rows: Sequence[Row], chat: Chat, terms: Sequence[Term], options: TrainOptions, positions: float,
            teacher_positions: float = math.inf, advance: Callable[[], None] = lambda: None,
            ) -> tuple[list[Row], list[Rejected], list[int]]:
    """(rows that fit, rows set aside with the reason, the student tokens of each that fits at most).

    Prompt and answer must fit into --max_length and into the model's `positions`, the prompt with the longest
    trajectory into those too, and the teacher's into its own. `advance` is called after each row. Raises
    UserError if no row fits.
    """
    fit, long, sizes, longest = [], list[Rejected](), [], options.max_completion_length
    draws = options.num_generations if options.distillation else 0
    for row in rows:
        view = chat.sft_view(row.prompt, row.completion) if row.completion else View(
            chat.student_prompt(row.prompt), [])
        answered, sampled = len(view.ids), len(view.prompt) + longest
        taught = [len(reading.teacher.ids) for term in terms if term.taught
                  for reading in term.readings(row, [[chat.pad_id] * longest], chat) if reading.teacher]
        told = f"prompt and answer have {answered} tokens"
        reason = (
            f"{told}, more than --max_length {options.max_length}" if answered > options.max_length else
            f"{told}; the model takes {positions}" if options.sft and answered > positions else
            f"prompt and trajectory may have {sampled} tokens; the model takes {positions}"
            if draws and sampled > positions else
            f"teacher prompt and trajectory may have {max(taught)} tokens; the teacher takes "
            f"{teacher_positions}" if taught and max(taught) > teacher_positions else None)
        if reason:
            long.append(Rejected("training rows", None, f"row_id {row.row_id}: {reason}"))
        else:
            fit.append(row)
            sizes.append(len(view.prompt) + options.sft * len(view.completion) + draws * longest)
        advance()
    if not fit:
        raise UserError(f"no row can be trained on: {long[0].reason if long else 'the data set is empty'}")
    return fit, long, sizes
