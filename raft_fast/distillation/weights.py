"""The trained weights as files: what a checkpoint holds of the student."""

from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file


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
    """A whole model of transformers, tied weights stored once; the folder loads as a model."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)

    def read(self, folder: Path) -> dict[str, torch.Tensor]:
        tensors = read_safetensors(folder)
        own = self.model.state_dict()
        have = {tensor.data_ptr() for name, tensor in own.items() if name in tensors}
        missing = [name for name, tensor in own.items() if tensor.data_ptr() not in have]
        check_names(missing, set(tensors) - set(own))
        return tensors

    def put(self, tensors: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict(tensors, strict=False)  # tied weights are stored once
        self.model.tie_weights()


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
