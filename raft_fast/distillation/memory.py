"""About what training will need beside what is free, and what happens where it is too much after all."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from rich.table import Table
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from raft_fast.distillation.checkpoint import random_state, set_random_state
from raft_fast.distillation.examples import Example
from raft_fast.distillation.losses import ce_chunk
from raft_fast.distillation.planning import RowLengths
from raft_fast.distillation.rollouts.local import ADVICE, RolloutBatch
from raft_fast.distillation.step import Stepper
from raft_fast.models.architecture import shares_prompts, text_config
from raft_fast.models.chat import View
from raft_fast.models.packing import completion_hidden, is_mixed
from raft_fast.run.errors import UserError, first_line
from raft_fast.run.options import TrainOptions
from raft_fast.run.progress import console

GIB = 1 << 30
PROBES = (64, 128)  # tokens of the two passes whose saved tensors are counted
# Of one (token, kept id) in the KL loss: id 8, the teacher's log-probability 4, a 32-bit column 4, the
# student's logit and log-probability 8, its gradient 4, the order that sorts the pairs by id 8, 4 to spare.
PAIR_BYTES = 40


@dataclass(frozen=True)
class Estimate:
    """Bytes beyond what is loaded already, by part, and bytes free on the device.

    Gradients and optimizer state stay; of the passes only the largest counts, since they take turns.
    """

    staying: dict[str, int]
    passing: dict[str, int]
    loaded: int
    free: int

    @property
    def needed(self) -> int:
        return sum(self.staying.values()) + max(self.passing.values(), default=0)

    def show(self) -> None:
        """A line a part, and a warning if the sum is more than is free; an allocator may keep more."""
        table = Table("memory of training, about", "GiB", title_justify="left")
        for part, size in (("models, loaded", self.loaded), *self.staying.items(), *(
                (f"{part} (they take turns)", size) for part, size in self.passing.items()),
                ("needed beyond the models", self.needed), ("free", self.free)):
            table.add_row(part, f"{size / GIB:.2f}")
        console.print(table)
        if self.needed > self.free:
            console.print(f"this will probably not fit: {ADVICE}", markup=False, soft_wrap=True, style="red")


def estimate(student: Any, teacher: Any | None, rows: Mapping[str, RowLengths], options: TrainOptions,
             processes: int = 1) -> Estimate:
    """`student` and `teacher` are models, loaded; `rows` as `measure` gives them.

    Counted is the largest micro-batch possible: the longest rows together, with trajectories as long as they
    may be. The teacher's own pass, which keeps nothing, is not. With FSDP2 each of P processes keeps 1 / P of
    weights, gradients and optimizer state, and gathers a whole copy for rollouts.
    """
    parts = processes if options.parallelism == "fsdp2" else 1
    weights = _bytes(student)
    trained = sum(stored_bytes(weight) for weight in student.parameters() if weight.requires_grad)
    draws = options.num_generations if options.distillation else 0
    prompts = 1 if shares_prompts(student) else draws + options.sft
    drawn = draws * options.max_completion_length

    def tokens(row: RowLengths) -> int:
        return prompts * row.prompt + drawn + options.sft * row.answer

    worst: list[RowLengths] = []
    for row in sorted(rows.values(), key=tokens, reverse=True)[: options.per_device_train_batch_size]:
        if not worst or sum(map(tokens, [*worst, row])) <= (options.max_tokens_per_micro_batch or math.inf):
            worst.append(row)
    sampled, answers = drawn * len(worst), options.sft * sum(row.answer for row in worst)
    each, fixed = _activations(student, options.gradient_checkpointing)
    passing = {"activations": sum(map(tokens, worst)) * each + fixed
               + _heads(student, answers, sampled, options.teacher_top_k)}
    if draws:
        passing["rollouts"] = _rollouts(student, max(row.prompt for row in worst), options)
        passing["rollouts"] += weights if parts > 1 else 0
    loaded = weights // parts + (0 if teacher is None or teacher is student else _bytes(teacher))
    return Estimate({"gradients": trained // parts, "AdamW": 2 * trained // parts}, passing, loaded,
                    free_memory(student.device) + weights - weights // parts)


def free_memory(device: torch.device) -> int:
    """Bytes that are still available: on a GPU with what torch holds and does not use."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def stored_bytes(tensor: torch.Tensor) -> int:
    """What a weight takes, quantised ones with their scales."""
    if is_traceable_wrapper_subclass(tensor):
        return sum(stored_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


def _bytes(model: Any) -> int:
    """Of a model's weights; tied ones once."""
    return sum(map(stored_bytes, model.parameters()))


def _activations(model: Any, checkpointing: bool) -> tuple[int, int]:
    """Bytes that autograd keeps: for every token, one layer's gradients included, and once (bf16 copies of
    float32 weights on a GPU). Counted in two passes, so adapters and bf16 are as they are; with checkpointing
    only each layer's input is kept, and one layer is made again."""
    config, was = text_config(model), model.training
    with torch.random.fork_rng():  # dropout draws; the run must not notice
        few, many = (_saved(model.train(), tokens) for tokens in PROBES)
    model.train(was)
    kept = (many - few) // (PROBES[1] - PROBES[0])
    layer = kept // config.num_hidden_layers
    inputs = int(config.num_hidden_layers * config.hidden_size * model.dtype.itemsize)
    return inputs + 2 * layer if checkpointing else kept + layer, max(0, few - PROBES[0] * kept)


def _saved(model: Any, tokens: int) -> int:
    """Bytes that autograd keeps of one pass, weights apart."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _ = completion_hidden(model, [View([0], [0] * (tokens - 1))], pad_id=0)
    return sum(kept.values())


def _heads(model: Any, answers: int, sampled: int, k: int) -> int:
    """The losses: logits of one chunk with their gradient, the head's own gradient once more where it is
    trained (on a GPU with bf16 copies), what is kept for a pair of token and id, states and gradients."""
    head = model.get_output_embeddings().weight
    chunk = 2 * 4 * min(ce_chunk(head.device), answers) * head.shape[0]
    again = (4 * head.requires_grad + 4 * is_mixed(model)) * head.numel()
    return chunk + again + PAIR_BYTES * sampled * k + 4 * 3 * (answers + sampled) * head.shape[1]


def _rollouts(model: Any, prompt: int, options: TrainOptions) -> int:
    """Keys and values of one round of rollouts. vLLM takes its share of the GPU; a server is elsewhere."""
    if options.rollout_engine == "vllm_server":
        return 0
    if options.rollout_engine == "vllm":
        return int(options.vllm_gpu_memory_utilization * torch.cuda.mem_get_info(model.device)[1])
    config, length = text_config(model), prompt + options.max_completion_length
    heads = getattr(config, "num_attention_heads", None) or 0  # none: no cache that grows
    width = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    keys = config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * width
    asked = (options.per_device_train_batch_size * options.gradient_accumulation_steps
             * options.steps_per_generation * options.num_generations)
    return int(min(asked, RolloutBatch().fitting(length)) * length * 2 * keys * model.dtype.itemsize)


def run_halving(stepper: Stepper, examples: Sequence[Example]) -> dict[str, Any]:
    """`stepper.run`; out of memory, micro-batches are halved for good and the step begins again, with every
    random generator where it was.

    λ then comes from the averages of the step before, as in any step of several micro-batches. Raises
    UserError where one row is too much, and with other processes, which would wait for ever.
    """
    before = random_state()
    updating: list[bool] = []
    hook = stepper.optimizer.register_step_pre_hook(lambda *_: updating.append(True))
    try:
        while True:
            try:
                return stepper.run(examples)
            except torch.OutOfMemoryError as error:
                reason = first_line(error)
            # outside of the handler: the error holds on to everything the step has made
            stepper.optimizer.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if updating:  # some weights may have been updated already
                raise UserError(f"out of memory while the optimizer made its state ({reason}): {ADVICE}")
            _halve(stepper, examples, reason)
            set_random_state(before)
    finally:
        hook.remove()


def _halve(stepper: Stepper, examples: Sequence[Example], reason: str) -> None:
    cut = stepper.limits.cut(examples)
    rows, tokens = max(map(len, cut)), max(sum(example.tokens for example in part) for part in cut)
    if rows == 1 or stepper.processes.size > 1:
        most = max(example.tokens for example in examples)
        at = f"with one row of {most} tokens" if rows == 1 else f"with {rows} rows a micro-batch in one of " \
            f"several processes (--max_tokens_per_micro_batch {tokens // 2} halves them)"
        raise UserError(f"out of memory {at} ({reason}): {ADVICE}")
    stepper.limits = replace(stepper.limits, rows=(rows + 1) // 2)
    console.print(f"out of memory with {rows} rows a micro-batch: retrying the step with micro-batches of "
                  f"{(rows + 1) // 2} rows; gradients are unchanged, λ comes from the averages of the step "
                  "before", markup=False, soft_wrap=True)
