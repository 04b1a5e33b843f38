"""Which rows every optimizer step has, how long rows are, and which fit."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raft_fast.data.dataset import Rejected, Row
from raft_fast.distillation.checkpoint import newest_state
from raft_fast.distillation.losses import Term
from raft_fast.models.chat import Chat, View
from raft_fast.run.errors import UserError
from raft_fast.run.options import TrainOptions
from raft_fast.run.processes import Processes


def rows_per_step(options: TrainOptions, run_dir: Path) -> int:
    """Rows of an optimizer step over all processes; a run that goes on keeps what it began with, on
    however many processes it goes on.

    Raises UserError where the options are others than before and give other rows a step.
    """
    processes = Processes()
    size = options.per_device_train_batch_size * options.gradient_accumulation_steps * processes.size

    def kept() -> int:
        state = newest_state(run_dir / "checkpoints")
        rows = int(state.get("rows_per_step", size))
        if rows != size and state.get("batch", batch(options)) != batch(options):
            raise UserError(
                f"--per_device_train_batch_size {options.per_device_train_batch_size} "
                f"--gradient_accumulation_steps {options.gradient_accumulation_steps}: {size} rows a step "
                f"(processes: {processes.size}), and the run in {run_dir} has {rows}; it goes on with "
                f"{_fitting_batch(rows, options, processes.size, state['batch'])}")
        return rows

    return processes.first(kept)


def batch(options: TrainOptions) -> list[int]:
    """The two options that give the rows of a step on one process."""
    return [options.per_device_train_batch_size, options.gradient_accumulation_steps]


def _fitting_batch(rows: int, options: TrainOptions, processes: int, before: Sequence[int]) -> str:
    """Both options for so many rows a step: passes of at most what is asked for, else as it was before."""
    each = rows // processes
    largest = max((size for size in range(1, each + 1)
                   if each % size == 0 and size <= options.per_device_train_batch_size), default=1)
    fits = [largest, each // largest] if rows % processes == 0 else before
    return f"--per_device_train_batch_size {fits[0]} --gradient_accumulation_steps {fits[1]}"


def step_count(rows: int, options: TrainOptions, size: int) -> int:
    """Optimizer steps of a run. As in transformers, --max_steps decides alone where it is given."""
    return options.max_steps if options.max_steps > 0 else options.num_train_epochs * -(-rows // size)


def plan(rows: Sequence[Row], options: TrainOptions, seed: int, size: int) -> list[list[Row]]:
    """The `size` rows of every optimizer step: each epoch in an order of its own, the last step of one may be
    short."""
    steps: list[list[Row]] = []
    count = step_count(len(rows), options, size)
    for epoch in range(-(-count // -(-len(rows) // size))):
        order = list(rows)
        random.Random(f"{seed} {epoch}").shuffle(order)
        steps += [order[start : start + size] for start in range(0, len(order), size)]
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
    found = {}
    longest = options.max_completion_length
    taught = [term for term in terms if term.taught]
    for row in rows:
        view = chat.sft_view(row.prompt, row.completion) if row.completion else View(
            chat.student_prompt(row.prompt), [])
        shown = [len(reading.teacher.ids) - longest for term in taught
                 for reading in term.readings(row, [[chat.pad_id] * longest], chat) if reading.teacher]
        found[row.row_id] = RowLengths(len(view.prompt), len(view.completion),
                                       max(shown, default=len(view.prompt)))
        advance()
    return found


def fitting(rows: Sequence[Row], lengths: Mapping[str, RowLengths], options: TrainOptions,
            positions: float, teacher_positions: float = math.inf) -> tuple[list[Row], list[Rejected]]:
    """Rows whose three views fit, and the others with the reason.

    The SFT view must fit into --max_length and into the model's `positions`; with the longest trajectory the
    student's view into those too, and the teacher's into its own. Raises UserError where no row fits.
    """
    fit, long = [], []
    for row in rows:
        own = lengths[row.row_id]
        answered = own.prompt + own.answer
        sampled, taught = (prompt + options.max_completion_length for prompt in (own.prompt, own.shown))
        if answered > options.max_length:
            reason = f"prompt and answer have {answered} tokens, more than --max_length {options.max_length}"
        elif options.sft and answered > positions:
            reason = f"prompt and answer have {answered} tokens; the model takes {positions}"
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
