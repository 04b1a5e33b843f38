"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

STATE, OPTIMIZER = "state.json", "optimizer.safetensors"


def save_checkpoint(folder: Path, step: int, student: Any, optimizer: torch.optim.Optimizer,
                    state: dict[str, Any], keep: int) -> None:
    """Write checkpoints/step-N with the student, the optimizer and `state` (plain JSON), then drop
    all but the newest `keep`."""
    partial = folder / f".partial-{step:06d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    student.save_pretrained(partial / "model")
    tensors = {f"{index}.{name}": value for index, values in optimizer.state_dict()["state"].items()
               for name, value in values.items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    save_file(tensors, partial / OPTIMIZER)
    (partial / STATE).write_text(json.dumps({"step": step, **state}), encoding="utf-8")
    partial.replace(folder / f"step-{step:06d}")
    for old in _checkpoints(folder)[:-keep]:
        shutil.rmtree(old)


def newest_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint of a run."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def load_checkpoint(checkpoint: Path, student: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put weights, optimizer state and random state back in place; returns the JSON state."""
    weights: dict[str, torch.Tensor] = {}
    for file in sorted((checkpoint / "model").glob("*.safetensors")):
        weights.update(load_file(file))
    student.load_state_dict(weights, strict=False)  # tied weights are stored once
    student.tie_weights()
    tensors = load_file(checkpoint / OPTIMIZER)
    torch.set_rng_state(tensors.pop("rng.cpu"))
    if (cuda := tensors.pop("rng.cuda", None)) is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return json.loads((checkpoint / STATE).read_text(encoding="utf-8"))


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / STATE).is_file())
