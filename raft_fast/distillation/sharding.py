"""The student over several processes: a copy on each (DDP), or a part of every weight (FSDP2)."""

import copy
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from raft_fast.distillation.student_pass import StudentPass
from raft_fast.distillation.weights import AsModel, FullWeights, Weights
from raft_fast.models.architecture import layers, positions, rope_switches
from raft_fast.models.attention import packs
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


class ShardedWeights(FullWeights):
    """Weights of a sharded model. `gather` brings them whole to the first process, which may then save."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.whole: dict[str, torch.Tensor] = {}

    def gather(self) -> None:
        """All processes take part; on the first the tensors wait in main memory for `save`."""
        self.whole = _gathered(self._tensors())

    def save(self, folder: Path) -> None:
        self._write(self.whole, folder)
        self.whole = {}

    def put(self, tensors: dict[str, torch.Tensor]) -> None:
        own = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(_part(tensor, own[name]))


def weights_of(model: Any, weights: Weights | None = None) -> Weights:
    """What checkpoints hold of a model: `weights`, by default all; of a sharded one all."""
    return ShardedWeights(model) if is_sharded(model) else weights or FullWeights(model)


class WholeOptimizer:
    """An optimizer's state in full, whatever part of it each process holds."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.whole: dict[int, dict[str, torch.Tensor]] = {}

    def gather(self) -> None:
        """All processes take part; on the first the tensors wait in main memory for `state_dict`."""
        self.whole = {index: _gathered(values)
                      for index, values in self.optimizer.state_dict()["state"].items()}

    def state_dict(self) -> dict[str, Any]:
        """The settings, and the state as last gathered."""
        return {**self.optimizer.state_dict(), "state": self.whole}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        parts = {index: {name: _part(value, parameters[index]) for name, value in values.items()}
                 for index, values in state_dict["state"].items()}
        self.optimizer.load_state_dict({**state_dict, "state": parts})


def _gathered(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In full and in main memory, one after another; on the first process only."""
    is_first, whole = Processes().is_first, {}
    for name, tensor in tensors.items():
        full = whole_tensor(tensor)
        if is_first:
            whole[name] = full.cpu()
    return whole


def _part(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor in full, sharded as `like` is; scalars stay whole."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def gather_weights(weights: AsModel) -> AsModel:
    """Ready for the first process to save; all take part."""
    if isinstance(weights.weights, ShardedWeights):
        weights.weights.gather()
    return weights


def gather_optimizer(optimizer: torch.optim.Optimizer) -> WholeOptimizer:
    """Ready for the first process to save; all take part."""
    whole = WholeOptimizer(optimizer)
    whole.gather()
    return whole
