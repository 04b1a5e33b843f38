"""A rough estimate of training's memory, and smaller micro-batches when it runs out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import torch

from raft_fast.distillation.examples import Example
from raft_fast.distillation.losses import ce_chunk
from raft_fast.distillation.rollouts import LESS_MEMORY
from raft_fast.distillation.step import Stepper
from raft_fast.models.architecture import text_config
from raft_fast.models.packing import is_mixed
from raft_fast.run.errors import UserError, first_line
from raft_fast.run.options import TrainOptions
from raft_fast.run.progress import console

PAIR_BYTES = 40  # of one (token, kept id) in the KL loss: three ids or columns, four numbers, 4 to spare


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
    logits = 2 * 4 * min(ce_chunk(head.device), tokens) * head.shape[0]  # and their gradient
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


def run_halving(stepper: Stepper, examples: Sequence[Example], seed: int) -> dict[str, Any]:
    """`stepper.run`; out of memory, micro-batches are halved for good and the step is retried, with dropout
    from the same `seed`. λ then comes from the averages of the step before, as in any step of several
    micro-batches. Raises UserError if one row is too much, if the optimizer had begun to update weights, or
    with several processes, since the others would wait."""
    updating = list[bool]()
    hook = stepper.optimizer.register_step_pre_hook(lambda *_: updating.append(True))
    try:
        while True:
            torch.manual_seed(seed)
            try:
                return stepper.run(examples)
            except torch.OutOfMemoryError as error:
                reason = first_line(error)
            # outside of the handler: the error holds on to everything the step has made
            stepper.optimizer.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            rows = max(map(len, stepper.cut(examples)))
            if updating or rows == 1 or stepper.processes.size > 1:
                at = "in the optimizer's update" if updating else f"with {rows} rows a micro-batch"
                raise UserError(f"out of memory {at} ({reason}): {LESS_MEMORY}")
            stepper.halved_to = (rows + 1) // 2
            console.print(f"out of memory with {rows} rows a micro-batch: retrying the step with "
                          f"micro-batches of {stepper.halved_to} rows; gradients are unchanged, λ comes "
                          "from the averages of the step before", markup=False, soft_wrap=True)
    finally:
        hook.remove()
