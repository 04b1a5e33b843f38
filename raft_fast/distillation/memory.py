"""What training will need at most, against what is there, before anything has been paid for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from raft_fast.chat import Chat, View
from raft_fast.dataset import Row
from raft_fast.distillation.losses import ce_chunk
from raft_fast.distillation.rollouts.batched import RolloutBatch
from raft_fast.options import TrainOptions
from raft_fast.packing import completion_hidden, consecutive

PROBES = (64, 128)  # tokens of the two passes whose saved tensors are counted
PAIR_BYTES = 40  # of one (token, kept id) in the KL loss: ids, both log-probabilities, gradient, order


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
             options: TrainOptions) -> Estimate:
    """`student` and `teacher` are models, loaded; `lengths` those of every step (see `micro_batches`)."""
    trained = sum(p.numel() * p.element_size() for p in student.parameters() if p.requires_grad)
    worst = max(lengths, key=lambda one: one.tokens)
    kept, layer = _activations(student)
    checkpointed = options.gradient_checkpointing
    activations = worst.tokens * (_saved_inputs(student) + layer if checkpointed else kept + layer)
    passing = {"activations": activations + _heads(student, worst, options)}
    if teacher is not None:
        passing["rollouts"] = _rollouts(student, options.max_completion_length + worst.prompt)
    models = {id(model): model for model in (student, teacher) if model is not None}
    loaded = sum({p.data_ptr(): p.numel() * p.element_size()
                  for model in models.values() for p in model.parameters()}.values())
    return Estimate({"gradients": trained, "AdamW": 2 * trained}, passing, loaded,
                    free_memory(student.device))


@dataclass(frozen=True)
class Lengths:
    """Student tokens of a micro-batch at most, completion tokens among them, and its longest prompt."""

    tokens: int
    completions: int
    sampled: int
    prompt: int


def micro_batches(steps: Sequence[Sequence[Row]], chat: Chat, options: TrainOptions) -> list[Lengths]:
    """Every micro-batch of a plan if all trajectories were as long as they may be."""
    known: dict[str, Lengths] = {}
    found = []
    for rows in steps:
        each = [known.setdefault(row.row_id, _lengths(row, chat, options)) for row in rows]
        sizes = [one.tokens for one in each]
        for group in consecutive(sizes, options.max_tokens_per_micro_batch or sum(sizes),
                                 options.per_device_train_batch_size):
            members = [each[index] for index in group]
            found.append(Lengths(sum(one.tokens for one in members), sum(one.completions for one in members),
                                 sum(one.sampled for one in members), max(one.prompt for one in members)))
    return found


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had: on a GPU with what torch holds and does not use."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def _lengths(row: Row, chat: Chat, options: TrainOptions) -> Lengths:
    prompt = len(chat.student_prompt(row.prompt))
    answer = chat.sft_view(row.prompt, row.completion) if options.sft else View([], [])
    sampled = options.max_completion_length if options.distillation else 0
    return Lengths(len(answer.ids) + (prompt + sampled if sampled else 0), len(answer.completion) + sampled,
                   sampled, prompt)


def _activations(model: Any) -> tuple[int, int]:
    """Bytes a token: what autograd keeps of all layers, and what one layer has at once."""
    with torch.random.fork_rng():  # dropout draws; the run must not notice
        was, checkpointing = model.training, getattr(model, "is_activation_checkpointing", False)
        model.train()
        if checkpointing:
            model.activation_checkpointing_disable()
        few, many = (_saved(model, tokens) for tokens in PROBES)
        model.train(was)
    kept = (many - few) // (PROBES[1] - PROBES[0])
    return kept, kept // model.config.num_hidden_layers


def _saved_inputs(model: Any) -> int:
    """Bytes a token under gradient checkpointing: one hidden state a layer."""
    config = model.config
    return config.num_hidden_layers * config.hidden_size * torch.finfo(model.dtype).bits // 8


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
    it is trained, and what is kept for every pair of token and id."""
    head = model.get_output_embeddings().weight
    chunk = 2 * 4 * ce_chunk(head.device) * head.shape[0] if options.sft else 0
    again = 4 * head.numel() if head.requires_grad else 0
    pairs = PAIR_BYTES * worst.sampled * options.teacher_top_k
    hidden = 4 * 3 * worst.completions * head.shape[1]
    return chunk + again + pairs + hidden


def _rollouts(model: Any, length: int) -> int:
    """Keys and values of one round of generation, and its logits in float32 with noise."""
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * width * torch.finfo(model.dtype).bits // 8
    logits = 3 * 4 * model.get_output_embeddings().weight.shape[0]
    return RolloutBatch().fitting(length) * (length * cache + logits)


