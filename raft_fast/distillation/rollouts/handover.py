"""What an engine with a copy of the student is given: its weights, and the ids that are never sampled."""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.core_model_loading import revert_weight_conversion

from raft_fast.distillation.lora import merged_weights, plain_name
from raft_fast.distillation.weights import WEIGHTS_FILE
from raft_fast.models.chat import Chat

LAYER = re.compile(r".*?\.\d+\.")


def weights_for_engine(student: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) as a checkpoint of the model has them: adapters merged, experts one by one, tied weights
    once, float32 as bf16, layer after layer."""
    once = {name for name, _ in student.named_parameters()}
    every = {name for name, _ in student.named_parameters(remove_duplicate=False)}
    tied = {plain_name(name) for name in every - once}
    kept = ((name, tensor) for name, tensor in merged_weights(student) if name not in tied)
    for _, layer in groupby(kept, lambda named: (found := LAYER.match(named[0])) and found[0]):
        tensors = {name: tensor.bfloat16() if tensor.dtype == torch.float32 else tensor
                   for name, tensor in layer}
        yield from revert_weight_conversion(student, tensors).items()


def write_for_engine(student: Any, folder: Path) -> None:
    """The same as one safetensors file in `folder`."""
    save_file({name: tensor.contiguous() for name, tensor in weights_for_engine(student)},
              folder / WEIGHTS_FILE)


def suppressed(student: Any, chat: Chat) -> dict[str, Any]:
    """Sampling parameters of vLLM for the ids that the tokenizer lacks; -100 is the API's word for never. A
    list of all others would be as long as the vocabulary, in every request."""
    lacking = chat.lacking(student.get_output_embeddings().weight.shape[0])
    return {"logit_bias": dict.fromkeys(lacking, -100.0)} if lacking else {}
