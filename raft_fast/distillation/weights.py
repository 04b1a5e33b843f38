"""The student's weights: over processes (DDP copies, FSDP2 parts), in full, and in folders of safetensors."""

import copy
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from raft_fast.distillation.student_pass import StudentPass
from raft_fast.models.architecture import layers, packs, positions, rope_switches
from raft_fast.run.errors import UserError
from raft_fast.run.processes import Processes

WEIGHTS_FILE = "model.safetensors"


class FullWeights:
    """A whole model's state dict under its own names, tied weights once, in a folder that --model reads.

    `save_pretrained` would rename and split the experts of mixture-of-experts models for the hub. An adapter
    (`student.Adapter`) has the same `save`, `read` and `put`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.whole: dict[str, torch.Tensor] = {}

    def gather(self) -> None:
        """Bring sharded weights to the first process, where `save` writes them; all processes take part."""
        self.whole = gathered(self._tensors()) if is_sharded(self.model) else {}

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.model.config.save_pretrained(folder)
        self.model.generation_config.save_pretrained(folder)
        save_file({name: tensor.contiguous() for name, tensor in (self.whole or self._tensors()).items()},
                  folder / WEIGHTS_FILE)
        self.whole = {}

    def read(self, folder: Path) -> dict[str, torch.Tensor]:
        return read_safetensors(folder, self._tensors())

    @torch.no_grad()
    def put(self, tensors: dict[str, torch.Tensor]) -> None:
        """Set the weights to what `read` returned."""
        own = self.model.state_dict()
        for name, tensor in tensors.items():
            own[name].copy_(part_of(tensor, own[name]))

    def _tensors(self) -> dict[str, torch.Tensor]:
        """The state dict, of tied weights the first name alone."""
        once = {name for name, _ in self.model.named_parameters()}
        every = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        tied = every - once
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in tied}


def read_safetensors(folder: Path, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The tensors of all .safetensors files in the folder. Raises ValueError unless these are their names."""
    tensors = {name: tensor for file in sorted(folder.glob("*.safetensors"))
               for name, tensor in load_file(file).items()}
    if wrong := sorted(tensors.keys() ^ set(names)):
        raise ValueError(f"its weights are not the model's: {wrong[:3]}")
    return tensors


def spread(student_pass: StudentPass, how: str, processes: Processes) -> Any:
    """The pass as every process runs it on its own micro-batches; alone, the pass itself.

    how: "ddp" or "fsdp2". Both average gradients over the processes. FSDP2 gathers each layer where it
    is used, and embeddings, head and last norm once a pass; its weights are sharded in place, so the
    optimizer is made afterwards. Raises UserError if FSDP2 does not support the model."""
    if processes.size == 1:
        return student_pass
    if how == "ddp":
        return DistributedDataParallel(student_pass, gradient_as_bucket_view=True)
    model = student_pass.model
    check_shards(model, how, processes)
    for layer in layers(model):
        fully_shard(layer)
    return fully_shard(student_pass)


def check_shards(model: Any, how: str, processes: Processes) -> None:
    """Raises UserError if FSDP2 cannot take this model: padded rows need as many passes as they have lengths,
    and every pass gathers weights from all processes."""
    if processes.size > 1 and how == "fsdp2" and not packs(model):
        raise UserError("--parallelism fsdp2 needs a model whose sequences can be packed; use ddp")


def longest_sequence(model: Any, how: str, processes: Processes) -> float:
    """Tokens a sequence may have. Rotary frequencies that change with length cost longer sequences a second
    pass, and FSDP2 needs as many passes on every process: there they are too long."""
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


def gathered(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In full and in main memory, one after another, on the first process only; all take part."""
    is_first, whole = Processes().is_first, ((name, whole_tensor(one)) for name, one in tensors.items())
    return {name: tensor.cpu() for name, tensor in whole if is_first}


def part_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a full tensor, sharded as `like` is; scalars stay whole."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole_model(model: Any, dtype: torch.dtype | None = None) -> Any:
    """A model that needs no other process: itself or, if it is sharded, a full copy in `dtype` of its weights
    as they are now; all take part."""
    return copied(model, dtype) if is_sharded(model) else model


def copied(model: Any, dtype: torch.dtype | None = None) -> Any:
    """A frozen copy in `dtype`, full if the model is sharded."""
    with torch.device("meta"):
        whole = type(model)(copy.deepcopy(model.config))
    whole.load_state_dict({name: whole_tensor(tensor.detach()).to(dtype or tensor.dtype)
                           for name, tensor in model.state_dict().items()}, assign=True)
    for module, source in zip(whole.modules(), model.modules(), strict=True):
        module._buffers.update(source._buffers)  # those that no state dict has: rotary frequencies
    whole.tie_weights()
    whole.generation_config = model.generation_config
    return whole.eval().requires_grad_(False)
