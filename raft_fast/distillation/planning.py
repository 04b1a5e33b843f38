"""Which rows every optimizer step has, how long rows are, which fit, and about how much memory they take."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from raft_kernels import logit_rows

from raft_fast.data.dataset import Rejected, Row
from raft_fast.distillation.checkpoint import batch, newest_state
from raft_fast.distillation.losses import Term
from raft_fast.distillation.rollouts import LESS_MEMORY
from raft_fast.models.architecture import text_config
from raft_fast.models.chat import Chat, View
from raft_fast.models.packing import is_mixed
from raft_fast.run.errors import UserError
from raft_fast.run.options import TrainOptions
from raft_fast.run.processes import Processes
from raft_fast.run.progress import console

PAIR_BYTES = 40  # of one (token, kept id) in the KL loss: three ids or columns, four numbers, 4 to spare


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
    trajectory into those too, and the teacher's into its own. Raises UserError if no row fits."""
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


def estimate(student: Any, sizes: Sequence[int], options: TrainOptions, processes: int = 1,
             ) -> dict[str, float]:
    """Bytes beyond the loaded models by part, for the largest micro-batch: the longest rows, of `sizes`
    tokens. Memory of rollouts and of the teacher's pass is not included. With FSDP2 each of P processes keeps
    1 / P of gradients and optimizer state."""
    config, head = text_config(student), student.get_output_embeddings().weight
    trained = sum(weight.nbytes for weight in student.parameters() if weight.requires_grad)
    trained //= processes if options.parallelism == "fsdp2" else 1
    longest = sorted(sizes, reverse=True)[: options.per_device_train_batch_size]
    tokens = min(sum(longest), max(options.max_tokens_per_micro_batch or math.inf, longest[0]))
    bits = 2 if is_mixed(student) else student.dtype.itemsize
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    # for one token: what autograd keeps of a layer (within a tenth for Llama and Qwen of 0.1 to 0.6 B)
    layer = bits * (10 * config.hidden_size + 4 * inner)
    kept = bits * config.hidden_size if options.gradient_checkpointing else layer
    logits = 2 * 4 * min(logit_rows(head.device), tokens) * head.shape[0]  # and their gradient
    again = (4 * head.requires_grad + 4 * is_mixed(student)) * head.numel()
    drawn = len(longest) * options.num_generations * options.max_completion_length
    return {"gradients": trained, "AdamW": 2 * trained,
            "activations": tokens * (config.num_hidden_layers * kept + 2 * layer),
            "losses": logits + again + options.distillation * PAIR_BYTES * drawn * options.teacher_top_k}


def show_memory(found: Mapping[str, float], device: torch.device) -> None:
    """One line of an `estimate`, and a warning if it does not fit."""
    free = float(psutil.virtual_memory().available)
    if device.type == "cuda":
        free = (torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
                - torch.cuda.memory_allocated(device))
    needed = sum(found.values())
    parts = ", ".join(f"{part} {size / 2**30:.2f}" for part, size in found.items())
    console.print(f"memory of training, about: {needed / 2**30:.2f} GiB needed beyond the models, "
                  f"{free / 2**30:.2f} free ({parts})", markup=False, soft_wrap=True)
    if needed > free:
        console.print(f"warning: this will probably not fit: {LESS_MEMORY}", markup=False, soft_wrap=True)
