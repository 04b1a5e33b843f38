"""The trained weights as files: what a checkpoint holds of the student."""

from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

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
