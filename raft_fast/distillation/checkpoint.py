"""Checkpoints: safetensors and JSON in a sealed folder that appears whole or not at all."""

import base64
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from raft_fast.distillation.weights import Weights, WholeOptimizer
from raft_fast.run.errors import UserError
from raft_fast.run.files import check_seal, discard, read_json, seal, sweep, write_folder
from raft_fast.run.folder import paid
from raft_fast.run.processes import Processes
from raft_fast.run.progress import console

STATE, OPTIMIZER, MODEL = "state.json", "optimizer.safetensors", "model"
NAME = re.compile(r"step-\d{6,}")


def save_checkpoint(folder: Path, step: int, weights: Weights,
                    optimizer: torch.optim.Optimizer | WholeOptimizer, state: dict[str, Any],
                    keep: int) -> Path:
    """Write checkpoints/step-N with the weights, the optimizer, every random generator and `state`
    (plain JSON), then drop all but the newest `keep`; returns its path."""
    def fill(partial: Path) -> None:
        weights.save(partial / MODEL)
        save_file({f"{index}.{name}": value
                   for index, values in optimizer.state_dict()["state"].items()
                   for name, value in values.items()}, partial / OPTIMIZER)
        (partial / STATE).write_text(json.dumps({"step": step, "random": random_state(), **state}),
                                     encoding="utf-8")
        seal(partial)

    sweep(folder)
    target = folder / f"step-{step:06d}"
    write_folder(target, fill)
    # later ones are damaged: the run went on from before them
    older = [path for path in checkpoints(folder) if step_of(path) < step]
    later = [path for path in checkpoints(folder) if step_of(path) > step]
    for unwanted in [*later, *older[: max(0, len(older) + 1 - keep)]]:
        discard(unwanted)
    return target


def restore(folder: Path, weights: Weights,
            optimizer: torch.optim.Optimizer | WholeOptimizer) -> dict[str, Any] | None:
    """Put the newest checkpoint that is whole in place; returns its JSON state, or None without one.

    All processes call it together: the first one chooses, and they go on from that one or not at all. Raises
    UserError where no checkpoint is whole, and where the chosen one cannot be read.
    """
    processes = Processes()
    chosen = processes.first(lambda: newest_whole(folder))
    if chosen is None:
        return None
    tensors, moments, state = processes.together(lambda: _read(chosen, weights))
    weights.put(tensors)
    _put_moments(moments, optimizer)
    set_random_state(state["random"])
    return state


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is what its manifest says; None where there is no checkpoint at all.

    A damaged one is skipped with a line that says so. Raises UserError where every one is damaged: to begin
    again would throw away what the run has cost.
    """
    damaged = []
    for checkpoint in reversed(checkpoints(folder)):
        try:
            check_seal(checkpoint)
        except (OSError, ValueError) as error:
            damaged.append(f"{checkpoint} is damaged ({error})")
            continue
        for one in damaged:
            console.print(f"checkpoint {one}: going on from {checkpoint.name}", markup=False, soft_wrap=True)
        return checkpoint
    if damaged:
        raise UserError(f"checkpoint {'; '.join(damaged)} and there is no other: put a good copy back, or "
                        f"remove the folder {folder} to train from the start; stage 1's answers are kept")
    return None


def check_resume(asked: str | Path | bool | None, run_dir: Path) -> None:
    """Raises UserError if the folder is not what `resume_from_checkpoint` says."""
    there = checkpoints(run_dir / "checkpoints")
    if asked is False and paid(run_dir):
        raise UserError(f"resume_from_checkpoint=False: {run_dir} already contains a run; use a new "
                        "output_dir, or leave it out to go on")
    if asked is True and not there:
        raise UserError(f"resume_from_checkpoint=True: {run_dir} has no checkpoint; leave it out to begin")
    if isinstance(asked, str | os.PathLike):
        known = [run_dir, run_dir / "checkpoints", *there[-1:]]
        if not there or Path(asked).resolve() not in [one.resolve() for one in known]:
            raise UserError(f"resume_from_checkpoint={str(asked)!r}: a run goes on in its own output_dir, "
                            f"from its newest checkpoint ({there[-1] if there else 'it has none'}); to go "
                            "on from an earlier one remove those after it")


def _read(checkpoint: Path, weights: Weights) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor],
                                                       dict[str, Any]]:
    """(weights, optimizer's tensors, JSON state); nothing is put in place before all can be read."""
    try:
        return (weights.read(checkpoint / MODEL), load_file(checkpoint / OPTIMIZER),
                read_json(checkpoint / STATE, "run the same command again"))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{checkpoint}: cannot be read here ({error}); run the same command again") from error


def newest_state(folder: Path) -> dict[str, Any]:
    """The JSON state of the newest checkpoint that has one; empty without one."""
    for checkpoint in reversed(checkpoints(folder)):
        try:
            found: dict[str, Any] = read_json(checkpoint / STATE)
            return found
        except UserError:
            continue
    return {}


def checkpoints(folder: Path) -> list[Path]:
    """Every folder of a step, oldest first, damaged ones too; a copy under another name is none."""
    return sorted((path for path in folder.glob("step-*") if NAME.fullmatch(path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _put_moments(tensors: dict[str, torch.Tensor],
                 optimizer: torch.optim.Optimizer | WholeOptimizer) -> None:
    """The optimizer's state per parameter; its settings come from the options and the schedule."""
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def random_state() -> dict[str, Any]:
    """The states of python's, numpy's and torch's generators, on the CPU and on every GPU."""
    state: Any = np.random.get_state(legacy=True)  # a tuple; the stubs allow for the other form
    name, keys, *rest = state
    version, internal, gauss = random.getstate()
    return {"python": [version, list(internal), gauss],
            "numpy": [name, keys.tolist(), *rest],
            "torch": _text(torch.get_rng_state()),
            "cuda": [_text(state) for state in torch.cuda.get_rng_state_all()]}


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` gave; GPUs that are not here any more are left out."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_tensor(state["torch"]))
    for device, saved in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(_tensor(saved), device)


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
