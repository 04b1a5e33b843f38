"""Which rows every optimizer step has, how long rows are, and which fit."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class RowLengths:
    """Tokens of a row: of the student's prompt, of the training answer, of what the teacher is shown."""

    prompt: int
    answer: int
    shown: int


def measure(rows: Sequence[Row], chat: Chat, terms: Sequence[Term], options: TrainOptions,
            advance: Callable[[], None] = lambda: None) -> dict[str, RowLengths]:
    """The lengths of every row by its row_id, tokenised once; `advance` is called after each."""
    found, longest = {}, options.max_completion_length
    for row in rows:
        view = chat.sft_view(row.prompt, row.completion) if row.completion else View(
            chat.student_prompt(row.prompt), [])
        shown = [len(reading.teacher.ids) - longest for term in terms if term.taught
                 for reading in term.readings(row, [[chat.pad_id] * longest], chat) if reading.teacher]
        found[row.row_id] = RowLengths(len(view.prompt), len(view.completion),
                                       max(shown, default=len(view.prompt)))
        advance()
    return found


def fitting(rows: Sequence[Row], lengths: Mapping[str, RowLengths], options: TrainOptions,
            positions: float, teacher_positions: float = math.inf) -> tuple[list[Row], list[Rejected]]:
    """(rows that fit, rows set aside with the reason).

    Prompt and answer must fit into --max_length and into the model's `positions`, the prompt with the longest
    trajectory into those too, and the teacher's into its own. Raises UserError if no row fits.
    """
    fit, long, drawn = [], [], options.max_completion_length
    for row in rows:
        own = lengths[row.row_id]
        answered, sampled, taught = own.prompt + own.answer, own.prompt + drawn, own.shown + drawn
        told = f"prompt and answer have {answered} tokens"
        if answered > options.max_length:
            reason = f"{told}, more than --max_length {options.max_length}"
        elif options.sft and answered > positions:
            reason = f"{told}; the model takes {positions}"
        elif options.distillation and sampled > positions:
            reason = f"prompt and trajectory may have {sampled} tokens; the model takes {positions}"
        elif options.distillation and taught > teacher_positions:
            reason = (f"teacher prompt and trajectory may have {taught} tokens; the teacher takes "
                      f"{teacher_positions}")
        else:
            fit.append(row)
            continue
        long.append(Rejected("training rows", None, f"row_id {row.row_id}: {reason}"))
    if not fit:
        raise UserError(f"no row can be trained on: {long[0].reason if long else 'the data set is empty'}")
    return fit, long
