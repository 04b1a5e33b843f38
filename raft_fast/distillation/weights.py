"""The trained weights, and the optimizer's state, as whole tensors and files, however they are spread."""

from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, distribute_tensor

from raft_fast.distillation.sharding import is_sharded, whole_tensor
from raft_fast.run.processes import Processes

WEIGHTS_FILE = "model.safetensors"


class Weights(Protocol):
    """What is trained, to and from a folder of safetensors."""

    def save(self, folder: Path) -> None:
        """Write the folder."""
        ...

    def read(self, folder: Path) -> dict[str, torch.Tensor]:
        """Every tensor there should be. Raises ValueError where one is missing or unknown."""
        ...

    def put(self, tensors: dict[str, torch.Tensor]) -> None:
        """Set the weights to what `read` gave."""
        ...


class FullWeights:
    """A whole model's state dict under its own names, tied weights once.

    Not transformers' folder of a model: `save_pretrained` renames and splits the experts of
    mixture-of-experts models for the hub.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def save(self, folder: Path) -> None:
        self._write(self._tensors(), folder)

    def read(self, folder: Path) -> dict[str, torch.Tensor]:
        tensors = read_safetensors(folder)
        check_names([name for name in self._tensors() if name not in tensors],
                    set(tensors) - set(self.model.state_dict()))
        return tensors

    def put(self, tensors: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict(tensors, strict=False)  # tied weights are stored once
        self.model.tie_weights()

    def _tensors(self) -> dict[str, torch.Tensor]:
        """The state dict; of tied weights, which a checkpoint stores once, the first name alone."""
        once = {name for name, _ in self.model.named_parameters()}
        every = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in every - once}

    def _write(self, tensors: dict[str, torch.Tensor], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_FILE)


class AsModel:
    """`weights` of `model`, saved with what makes a folder of them one that --model reads."""

    def __init__(self, weights: Weights, model: Any, tokenizer: Any) -> None:
        self.weights, self.model, self.tokenizer = weights, model, tokenizer
        self.read, self.put = weights.read, weights.put

    def save(self, folder: Path) -> None:
        self.weights.save(folder)
        self.tokenizer.save_pretrained(folder)
        if (folder / WEIGHTS_FILE).is_file():  # whole, and no adapter, whose model is another folder
            self.model.config.save_pretrained(folder)
            self.model.generation_config.save_pretrained(folder)


def read_safetensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of every .safetensors file in the folder."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def check_names(missing: list[str], unknown: set[str]) -> None:
    """Raises ValueError where a tensor is missing or unknown."""
    if missing or unknown:
        raise ValueError(f"its weights are not the model's: {[*missing, *sorted(unknown)][:3]}")


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
