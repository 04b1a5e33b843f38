"""The student over several processes: a copy on each (DDP), or a part of every weight (FSDP2)."""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from raft_fast.distillation.student_pass import StudentPass
from raft_fast.models.architecture import layers, packs, positions, rope_switches
from raft_fast.run.errors import UserError
from raft_fast.run.processes import Processes


def spread(student_pass: StudentPass, how: str, processes: Processes) -> Any:
    """The pass as every process runs it on micro-batches of its own; alone, the pass itself.

    how: "ddp" or "fsdp2". Both average gradients over the processes. FSDP2 gathers each layer where it
    is used, and embeddings, head and last norm once a pass; its weights are sharded in place, so the
    optimizer is made afterwards.
    """
    if processes.size == 1:
        return student_pass
    if how == "ddp":
        return DistributedDataParallel(student_pass, gradient_as_bucket_view=True)
    model = student_pass.model
    check_shards(model, how, processes)
    if not all(parameter.requires_grad for parameter in model.get_decoder().parameters()):
        raise UserError("--parallelism fsdp2 trains whole models; adapters are small: use ddp")
    for layer in layers(model):
        fully_shard(layer)
    return fully_shard(student_pass)


def check_shards(model: Any, how: str, processes: Processes) -> None:
    """Raise UserError where FSDP2 cannot take this model: padded rows take as many passes as their lengths
    ask, and passes gather weights."""
    if processes.size > 1 and how == "fsdp2" and not packs(model):
        raise UserError("--parallelism fsdp2 needs a model whose sequences can be packed; use ddp")


def longest_sequence(model: Any, how: str, processes: Processes) -> float:
    """Tokens a sequence may have. A model whose rotary frequencies change with length needs a second pass
    for longer ones, and FSDP2 as many passes on every process: there they are too long."""
    sharded = processes.size > 1 and how == "fsdp2"
    return min([positions(model), *(rope_switches(model) if sharded else [])])


def accumulating(student_pass: Any) -> AbstractContextManager[None]:
    """For every backward pass of a step but the last: DDP averages gradients once a step."""
    return student_pass.no_sync() if isinstance(student_pass, DistributedDataParallel) else nullcontext()


def is_sharded(model: Any) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor in full, on every process; all take part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_model(model: Any, dtype: torch.dtype | None = None) -> Any:
    """A model that needs no other process: itself, or where it is sharded a copy in full, in `dtype`, as its
    weights are now; all take part."""
    return copied(model, dtype) if is_sharded(model) else model


def copied(model: Any, dtype: torch.dtype | None = None) -> Any:
    """A frozen copy in `dtype`, whole where the model is sharded."""
    with torch.device("meta"):
        whole = type(model)(copy.deepcopy(model.config))
    whole.load_state_dict({name: whole_tensor(tensor.detach()).to(dtype or tensor.dtype)
                           for name, tensor in model.state_dict().items()}, assign=True)
    for module, source in zip(whole.modules(), model.modules(), strict=True):
        module._buffers.update(source._buffers)  # those that no state dict has: rotary frequencies
    whole.tie_weights()
    whole.generation_config = model.generation_config
    return whole.eval().requires_grad_(False)


def sampler(model: Any) -> Any:
    """What rollouts are sampled from; a copy of a sharded model is bf16 on a GPU."""
    return whole_model(model, torch.bfloat16 if model.device.type == "cuda" else None)
