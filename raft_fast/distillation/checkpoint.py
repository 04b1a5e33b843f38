"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all."""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

STATE, OPTIMIZER = "state.json", "optimizer.safetensors"


def save_checkpoint(folder: Path, step: int, student: Any, optimizer: torch.optim.Optimizer,
                    state: dict[str, Any], keep: int) -> None:
    """Write checkpoints/step-N with the student, the optimizer and `state` (plain JSON), then drop
    all but the newest `keep`."""
    for left in folder.glob(".partial-*"):  # of a run that was stopped while it wrote
        shutil.rmtree(left)
    partial = folder / f".partial-{step:06d}"
    partial.mkdir(parents=True)
    student.save_pretrained(partial / "model")
    tensors = {f"{index}.{name}": value for index, values in optimizer.state_dict()["state"].items()
               for name, value in values.items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    save_file(tensors, partial / OPTIMIZER)
    (partial / STATE).write_text(json.dumps({"step": step, **state}), encoding="utf-8")
    _flush(partial)
    target = folder / f"step-{step:06d}"
    shutil.rmtree(target, ignore_errors=True)  # a damaged one of the same step
    partial.replace(target)
    for old in _checkpoints(folder)[:-keep]:
        shutil.rmtree(old)


def restore(folder: Path, student: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Put the newest checkpoint that can be read back in place; returns its JSON state, None without one.

    A damaged checkpoint is skipped with a warning.
    """
    for checkpoint in reversed(_checkpoints(folder)):
        try:
            weights = _load_weights(checkpoint / "model", student)
            tensors = load_file(checkpoint / OPTIMIZER)
            state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        except (SafetensorError, OSError, ValueError) as error:
            warnings.warn(f"{checkpoint} cannot be read ({error}); going on from the one before",
                          stacklevel=2)
            continue
        student.load_state_dict(weights, strict=False)  # tied weights are stored once
        student.tie_weights()
        _load_optimizer(tensors, optimizer)
        return state
    return None


def _load_weights(folder: Path, student: Any) -> dict[str, torch.Tensor]:
    """Every weight the student needs; ValueError where one is missing or unknown."""
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights.update(load_file(file))
    have = {tensor.data_ptr() for name, tensor in student.state_dict().items() if name in weights}
    missing = [name for name, tensor in student.state_dict().items() if tensor.data_ptr() not in have]
    unknown = set(weights) - set(student.state_dict())
    if missing or unknown:
        raise ValueError(f"its weights are not the model's: {[*missing, *unknown][:3]}")
    return weights


def _load_optimizer(tensors: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Optimizer moments and random states."""
    torch.set_rng_state(tensors.pop("rng.cpu"))
    if (cuda := tensors.pop("rng.cuda", None)) is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def _flush(folder: Path) -> None:
    """Make every file below the folder durable before its name says it is complete."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / STATE).is_file())
