"""About what training will need, against what is there, before anything has been paid for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from raft_fast.data.dataset import Row
from raft_fast.distillation.losses import ce_chunk
from raft_fast.distillation.planning import RowLengths
from raft_fast.distillation.rollouts.batched import RolloutBatch
from raft_fast.models.architecture import layers, text_config
from raft_fast.models.chat import View
from raft_fast.models.packing import PASS_TOKENS, completion_hidden, consecutive, is_mixed
from raft_fast.run.options import TrainOptions

PROBES = (64, 128)  # tokens of the two passes whose saved tensors are counted
# Of one (token, kept id) in the KL loss: id 8, the teacher's log-probability 4, a 32-bit column 4, the
# student's logit and log-probability 8, its gradient 4, the order that sorts the pairs by id 8, 4 to spare.
PAIR_BYTES = 40
SELECT_BYTES = 128 << 20  # of topk_targets, whatever it reads: tests/kernels/test_kernel_memory.py


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

    @property
    def fits(self) -> bool:
        return self.needed <= self.free


def estimate(student: Any, teacher: Any | None, lengths: Sequence["Lengths"],
             options: TrainOptions, processes: int = 1) -> Estimate:
    """`student` and `teacher` are models, loaded; `lengths` those of every step (see `micro_batches`).

    With FSDP2 each of P processes keeps 1 / P of the student's weights, gradients and optimizer state. It
    gathers embeddings and head for a whole pass and a layer where it is used, the next one meanwhile, each
    with a gradient in full until that is shared out; rollouts are sampled from a whole copy.
    """
    parts = processes if options.parallelism == "fsdp2" else 1
    trained = sum(stored_bytes(p) for p in student.parameters() if p.requires_grad)
    weights = _weights(student)
    shared = teacher is student
    loaded = weights // parts + (0 if teacher is None or shared else _weights(teacher))
    worst = max(lengths, key=lambda one: one.tokens)
    passing = {"activations": _student_pass(student, worst, options)}
    if teacher is not None:
        passing["teacher"] = _teacher_pass(teacher, max(one.taught for one in lengths), worst, options)
        passing["rollouts"] = _rollouts(student, options.max_completion_length + worst.prompt, options)
    if parts > 1:
        passing["activations"] += _gathered(student)
        if teacher is not None and not is_mixed(student):  # sampled from a whole copy, in bf16 on a GPU
            passing["rollouts"] += sum(p.numel() for p in student.parameters()) * student.dtype.itemsize
    return Estimate({"gradients": trained // parts, "AdamW": 2 * trained // parts}, passing, loaded,
                    free_memory(student.device) + weights - weights // parts)


@dataclass(frozen=True)
class Lengths:
    """Tokens that a micro-batch brings into the student at most, its completion tokens, those of them that
    are sampled, its longest prompt, and the tokens that the teacher reads."""

    tokens: int
    completions: int
    sampled: int
    prompt: int
    taught: int


def micro_batches(steps: Sequence[Sequence[Row]], rows: Mapping[str, RowLengths], options: TrainOptions,
                  share: bool = False) -> list[Lengths]:
    """Every micro-batch of a plan if all trajectories were as long as they may be; `rows` as `measure` gives
    them. `share`: whether a row's prompt enters the model once (`attention.shares_prompts`); what prompts of
    several rows begin with alike is counted for each."""
    found = []
    for step in steps:
        each = [rows[row.row_id] for row in step]
        sizes = [_lengths([one], options, share=False).tokens for one in each]
        for group in consecutive(sizes, options.max_tokens_per_micro_batch or sum(sizes),
                                 options.per_device_train_batch_size):
            found.append(_lengths([each[index] for index in group], options, share))
    return found


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had: on a GPU with what torch holds and does not use."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def stored_bytes(tensor: torch.Tensor) -> int:
    """What a weight takes, quantised ones with their scales."""
    if is_traceable_wrapper_subclass(tensor):
        return sum(stored_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


def _weights(model: Any) -> int:
    """Bytes of a model; tied weights once."""
    return sum(stored_bytes(parameter) for parameter in model.parameters())


def _lengths(rows: Sequence[RowLengths], options: TrainOptions, share: bool) -> Lengths:
    """Those of a micro-batch."""
    draws = options.num_generations if options.distillation else 0
    sampled = options.max_completion_length * len(rows) * draws
    completions = sampled + (sum(row.answer for row in rows) if options.sft else 0)
    times = 1 if share else draws + options.sft
    prompts = times * sum(row.prompt for row in rows)
    taught = sampled + draws * sum(row.shown for row in rows)
    return Lengths(prompts + completions, completions, sampled, max(row.prompt for row in rows), taught)


def _student_pass(model: Any, worst: Lengths, options: TrainOptions) -> int:
    """What autograd keeps for every token, one layer's gradients at work, and the two heads.

    With gradient checkpointing only each layer's input is kept, and one layer is made again.
    """
    kept, fixed = _activations(model)
    layer = kept // text_config(model).num_hidden_layers
    a_token = _saved_inputs(model) + 2 * layer if options.gradient_checkpointing else kept + layer
    return worst.tokens * a_token + fixed + _heads(model, worst, options)


def _activations(model: Any) -> tuple[int, int]:
    """Bytes that autograd keeps of all layers: for every token, and once (bf16 copies of float32 weights
    on a GPU). Counted in two passes, so adapters, frozen layers and bf16 are as they are."""
    with torch.random.fork_rng():  # dropout draws; the run must not notice
        was, checkpointing = model.training, getattr(model, "is_activation_checkpointing", False)
        model.train()
        if checkpointing:
            model.activation_checkpointing_disable()
        few, many = (_saved(model, tokens) for tokens in PROBES)
        model.train(was)
    kept = (many - few) // (PROBES[1] - PROBES[0])
    return kept, max(0, few - PROBES[0] * kept)


def _saved_inputs(model: Any) -> int:
    """Bytes a token under gradient checkpointing: one hidden state a layer."""
    config = text_config(model)
    return int(config.num_hidden_layers * config.hidden_size * model.dtype.itemsize)


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
        hidden = completion_hidden(model, [View([0], [0] * (tokens - 1))], pad_id=0)
    del hidden
    return sum(kept.values())


def _heads(model: Any, worst: Lengths, options: TrainOptions) -> int:
    """The two losses: logits of one chunk with their gradient, the head's own gradient once more where
    it is trained, what is kept for every pair of token and id, states and their gradients; on a GPU a bf16
    copy of the head and of its gradient."""
    head = model.get_output_embeddings().weight
    rows = min(ce_chunk(head.device), worst.completions - worst.sampled)
    chunk = 2 * 4 * rows * head.shape[0]
    again = 4 * head.numel() if head.requires_grad else 0
    copies = 2 * 2 * head.numel() if is_mixed(model) else 0
    pairs = PAIR_BYTES * worst.sampled * options.teacher_top_k
    hidden = 4 * 3 * worst.completions * head.shape[1]
    return chunk + again + copies + pairs + hidden


def _teacher_pass(model: Any, tokens: int, worst: Lengths, options: TrainOptions) -> int:
    """Nothing is kept: one layer's states at a time (the residual, its norm, query and output of attention;
    gate, up and their product), the selection, and the targets."""
    config = text_config(model)
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    layer = (4 * config.hidden_size + 3 * wide) * model.dtype.itemsize
    return min(tokens, PASS_TOKENS) * layer + SELECT_BYTES + 12 * worst.sampled * options.teacher_top_k


def _rollouts(model: Any, length: int, options: TrainOptions) -> int:
    """What sampling holds. transformers: keys and values of one round, its logits (as they are, their
    probabilities, what is handed back in float32, cumulative sums in float64), and where products are made
    in fewer bits the weights in them. vLLM takes its share of the GPU while it is awake; a server has
    memory of its own."""
    if options.rollout_engine == "vllm_server":
        return 0
    if options.rollout_engine == "vllm":
        return int(options.vllm_gpu_memory_utilization * torch.cuda.mem_get_info(model.device)[1])
    cache = 2 * _cached(text_config(model)) * model.dtype.itemsize
    logits = (3 * 4 + 8) * model.get_output_embeddings().weight.shape[0]
    asked = (options.per_device_train_batch_size * options.gradient_accumulation_steps
             * options.steps_per_generation * options.num_generations)
    cast = 2 * sum(p.numel() for p in model.parameters()) if is_mixed(model) else 0
    return min(asked, RolloutBatch().fitting(length)) * (length * cache + logits) + cast


def _cached(config: Any) -> int:
    """Numbers that a token's keys (or values) are, over all layers; none where there is no attention."""
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        return 0
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * width)


def _gathered(model: Any) -> int:
    """FSDP2: embeddings, head and last norm, and two layers, each with a gradient of one of them."""
    each = [_weights(layer) for layer in layers(model)]
    return 2 * (_weights(model) - sum(each)) + 3 * max(each)
