"""Checkpoints: safetensors and JSON in a sealed folder that appears whole or not at all, and resuming."""

import json
import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import set_seed

from raft_fast.distillation.callbacks import TrainingState
from raft_fast.distillation.rollouts import RolloutBuffer, RolloutEngine
from raft_fast.distillation.step import Stepper
from raft_fast.distillation.weights import FullWeights, gathered, part_of
from raft_fast.engines import stable_seed
from raft_fast.run.errors import UserError
from raft_fast.run.files import check_seal, discard, read_json, seal, sweep, write_folder
from raft_fast.run.folder import paid
from raft_fast.run.options import TrainOptions
from raft_fast.run.processes import Processes
from raft_fast.run.progress import console

STATE, OPTIMIZER, MODEL = "state.json", "optimizer.safetensors", "model"
NAME = re.compile(r"step-\d{6,}")
Tensors = dict[str, torch.Tensor]


@dataclass
class Resumable:
    """The state of a run. All processes call its methods together; the first one writes.

    rollouts: None if nothing is sampled. rows_per_step: over all processes. rows: fingerprint of the training
    rows, as one row more changes the order of all.
    """

    state: TrainingState
    stepper: Stepper
    scheduler: Any
    rollouts: RolloutBuffer | None
    rows_per_step: int
    seed: int
    rows: str

    def restore(self) -> None:
        """Go back to the newest whole checkpoint, if any. Raises UserError if its steps had other rows."""
        kept = restore(self._folder, self.state.weights, self.stepper.optimizer)
        if kept is None:
            return
        if kept["rows"] != self.rows:
            raise UserError(f"{self._folder}: its steps had other rows, or the same in another order; resume "
                            "with the data, --parallelism and screening that the run began with, or choose "
                            "another --output_dir")
        self.state.step, self.state.saved = kept["step"], kept["folder"]
        self.state.finished = kept["finished"]
        if Processes().is_first:
            console.print(f"going on from the checkpoint of step {self.state.step} of {self.state.total}",
                          markup=False, soft_wrap=True)
        self.stepper.balance.load(kept["balance"])
        if halved := kept["halved_to"]:  # smaller micro-batches take λ from elsewhere
            self.stepper.limits = replace(self.stepper.limits, rows=min(halved, self.stepper.limits.rows))
        self.scheduler.load_state_dict(kept["scheduler"])
        for group, lr in zip(self.stepper.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = lr  # a loaded schedule does not touch the optimizer until its next step
        if self.rollouts:
            self.rollouts.load(kept["buffer"])
        go_on(kept["processes"], self._engine, Processes(), [self.seed, self.state.step])

    def save(self) -> Path:
        """Write the checkpoint of the step just done; returns its folder."""
        processes, options, weights = Processes(), self.stepper.options, self.state.weights
        kept = {"balance": self.stepper.balance.state(), "scheduler": self.scheduler.state_dict(),
                "halved_to": self.stepper.halved_to, "processes": of_each_process(self._engine, processes),
                "finished": self.state.finished, "rows": self.rows, "rows_per_step": self.rows_per_step,
                "batch": batch(options), "buffer": self.rollouts.state() if self.rollouts else {}}
        if isinstance(weights, FullWeights):
            weights.gather()
        save = partial(save_checkpoint, self._folder, self.state.step, weights,
                       moments(self.stepper.optimizer), kept, options.save_total_limit,
                       self.stepper.chat.tokenizer)
        self.state.saved = processes.first(save)
        return self.state.saved

    @property
    def _folder(self) -> Path:
        return self.state.run_dir / "checkpoints"

    @property
    def _engine(self) -> RolloutEngine | None:
        return self.rollouts.engine if self.rollouts else None


def save_checkpoint(folder: Path, step: int, weights: Any, optimizer: Tensors, state: dict[str, Any],
                    keep: int, tokenizer: Any = None) -> Path:
    """Write checkpoints/step-N with weights and tokenizer, the optimizer's `moments` and `state` (plain
    JSON), then drop all but the newest `keep`; returns its path."""
    def fill(partial: Path) -> None:
        weights.save(partial / MODEL)
        if tokenizer:
            tokenizer.save_pretrained(partial / MODEL)
        save_file(optimizer, partial / OPTIMIZER)
        (partial / STATE).write_text(json.dumps({"step": step, **state}), encoding="utf-8")
        seal(partial)

    sweep(folder)
    target = folder / f"step-{step:06d}"
    write_folder(target, fill)
    # later ones are damaged: the run was resumed from before them
    older = [path for path in checkpoints(folder) if step_of(path) < step]
    for path in checkpoints(folder):
        if step_of(path) > step or path in older[: max(0, len(older) + 1 - keep)]:
            discard(path)
    return target


def restore(folder: Path, weights: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Put weights and optimizer of the newest whole checkpoint in place; returns its JSON state and its
    `folder`, or None without a checkpoint.

    All processes call it together: the first one chooses, and they go on from that one or not at all. Raises
    UserError if no checkpoint is whole, or the chosen one cannot be read.
    """
    processes = Processes()
    chosen = processes.first(lambda: newest_whole(folder))
    if chosen is None:
        return None
    tensors, optimizer_state, state = processes.together(lambda: _read(chosen, weights))
    weights.put(tensors)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    of_parameters: dict[int, Tensors] = {}
    for key, value in optimizer_state.items():
        index, name = key.split(".", 1)
        of_parameters.setdefault(int(index), {})[name] = part_of(value, parameters[int(index)])
    # the optimizer's settings come from the options and the schedule
    optimizer.load_state_dict({**optimizer.state_dict(), "state": of_parameters})
    return {**state, "folder": chosen}


def moments(optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimizer's state as `restore` reads it, in full on the first process; all take part."""
    return gathered({f"{index}.{name}": value for index, values in optimizer.state_dict()["state"].items()
                     for name, value in values.items()})


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that matches its manifest; None if there is no checkpoint at all.

    A damaged one is skipped with a line that says so. Raises UserError if all are damaged: starting over
    would throw away what the run has cost.
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
                        "output_dir")
    if asked is True and not there:
        raise UserError(f"resume_from_checkpoint=True: {run_dir} has no checkpoint")
    known = [path.resolve() for path in (run_dir, run_dir / "checkpoints", *there[-1:])] if there else []
    if isinstance(asked, str | os.PathLike) and Path(asked).resolve() not in known:
        raise UserError(f"resume_from_checkpoint={str(asked)!r}: a run goes on in its own output_dir, from "
                        f"its newest checkpoint ({there[-1] if there else 'it has none'}); to go on from an "
                        "earlier one remove those after it")


def _read(checkpoint: Path, weights: Any) -> tuple[Tensors, Tensors, dict[str, Any]]:
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
    """Every folder of a step, oldest first, damaged ones too; a copy under another name is ignored."""
    return sorted((path for path in folder.glob("step-*") if NAME.fullmatch(path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def batch(options: TrainOptions) -> list[int]:
    """The two options that give the rows of a step on one process."""
    return [options.per_device_train_batch_size, options.gradient_accumulation_steps]


def of_each_process(engine: RolloutEngine | None, processes: Processes) -> list[dict[str, Any]]:
    """What a checkpoint keeps of every process; all take part."""
    return processes.collect([{"random": random_state(), **(engine.state() if engine else {})}])


def go_on(kept: Sequence[dict[str, Any]], engine: RolloutEngine | None, processes: Processes,
          seed: list[int]) -> None:
    """Put back what `of_each_process` gave; with a different number of processes, draw anew."""
    if len(kept) != processes.size:
        seed_process(processes, *seed)
        return
    own = kept[processes.rank]
    if engine:
        engine.load(own)
    set_random_state(own["random"])


def seed_process(processes: Processes, *seed: int) -> None:
    """Dropout: every process draws its own, the first one as if it were alone."""
    set_seed(stable_seed(*seed, processes.rank) % 2**32)


def random_state() -> dict[str, Any]:
    """The states of python's, numpy's and torch's generators, on the CPU and on every GPU, as JSON."""
    state: Any = np.random.get_state(legacy=True)  # a tuple; the stubs allow for the other form
    name, keys, *rest = state
    return {"python": random.getstate(), "numpy": [name, keys.tolist(), *rest],
            "torch": torch.get_rng_state().tolist(),
            "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()]}


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` gave; GPUs that are not here any more are left out."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    for device, saved in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(torch.tensor(saved, dtype=torch.uint8), device)
