"""Checkpoints: safetensors and JSON in a sealed folder that appears whole or not at all, and resuming."""

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from raft_fast.distillation.callbacks import TrainingState
from raft_fast.distillation.rollouts import RolloutBuffer
from raft_fast.distillation.step import Stepper
from raft_fast.distillation.weights import FullWeights, gathered, part_of
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
    rows, as one row more changes the order of all."""

    state: TrainingState
    stepper: Stepper
    scheduler: Any
    rollouts: RolloutBuffer | None
    rows_per_step: int
    rows: str

    def __post_init__(self) -> None:
        self.folder, self.processes = self.state.run_dir / "checkpoints", Processes()

    def restore(self) -> None:
        """Go back to the newest whole checkpoint, if any. Raises UserError if its steps had other rows."""
        kept = restore(self.folder, self.state.weights, self.stepper.optimizer, self.rows)
        if kept is None:
            return
        self.state.step, self.state.saved = kept["step"], kept["folder"]
        self.state.finished = kept["finished"]
        if self.processes.is_first:
            console.print(f"going on from the checkpoint of step {self.state.step} of {self.state.total}",
                          markup=False, soft_wrap=True)
        self.stepper.balance.load(kept["balance"])
        self.stepper.halved_to = kept["halved_to"]  # smaller micro-batches take λ from elsewhere
        self.scheduler.load_state_dict(kept["scheduler"])
        for group, lr in zip(self.stepper.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = lr  # a loaded schedule does not touch the optimizer until its next step
        if self.rollouts:
            self.rollouts.waiting = {int(step): ids for step, ids in kept["buffer"].items()}

    def save(self) -> Path:
        """Write the checkpoint of the step just done; returns its folder."""
        options, weights, stepper = self.stepper.options, self.state.weights, self.stepper
        kept = {"balance": stepper.balance.state(), "scheduler": self.scheduler.state_dict(),
                "halved_to": stepper.halved_to, "finished": self.state.finished, "rows": self.rows,
                "rows_per_step": self.rows_per_step, "batch": batch(options),
                "buffer": self.rollouts.waiting if self.rollouts else {}}
        if isinstance(weights, FullWeights):
            weights.gather()
        optimizer = moments(stepper.optimizer)
        self.state.saved = self.processes.first(lambda: save_checkpoint(
            self.folder, self.state.step, weights, optimizer, kept, options.save_total_limit,
            stepper.chat.tokenizer))
        return self.state.saved


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
    there = checkpoints(folder)
    newest = [path for path in there if step_of(path) <= step][-keep:]
    for path in there:
        if path not in newest:  # later ones are damaged: the run was resumed from before them
            discard(path)
    return target


def restore(folder: Path, weights: Any, optimizer: torch.optim.Optimizer, rows: str) -> dict[str, Any] | None:
    """Put weights and optimizer of the newest whole checkpoint in place; returns its JSON state and its
    `folder`, or None without a checkpoint.

    All processes call it together: the first one chooses, and they go on from that one or not at all. Raises
    UserError if no checkpoint is whole, if the chosen one cannot be read, or was made on other `rows`."""
    processes = Processes()
    chosen = processes.first(lambda: newest_whole(folder))
    if chosen is None:
        return None
    tensors, optimizer_state, state = processes.together(lambda: _read(chosen, weights))
    if state["rows"] != rows:
        raise UserError(f"{folder}: its steps had other rows, or the same in another order; resume with the "
                        "data, --parallelism and screening that the run began with, or choose another "
                        "--output_dir")
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
    would throw away what the run has cost."""
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
    folder = run_dir / "checkpoints"
    newest = max(checkpoints(folder), key=step_of, default=None)
    if asked is False and paid(run_dir):
        raise UserError(f"resume_from_checkpoint=False: {run_dir} already contains a run; use a new "
                        "output_dir")
    if asked is True and not newest:
        raise UserError(f"resume_from_checkpoint=True: {run_dir} has no checkpoint")
    if isinstance(asked, str | os.PathLike) and not (
            newest and Path(asked).resolve() in [path.resolve() for path in (run_dir, folder, newest)]):
        raise UserError(f"resume_from_checkpoint={str(asked)!r}: a run goes on in its own output_dir, from "
                        f"its newest checkpoint ({newest or 'it has none'}); to resume from an earlier one "
                        "remove those after it")


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
        with suppress(UserError):
            return dict(read_json(checkpoint / STATE))
    return {}


def checkpoints(folder: Path) -> list[Path]:
    """Every folder of a step, oldest first, damaged ones too; a copy under another name is ignored."""
    return sorted((path for path in folder.glob("step-*") if NAME.fullmatch(path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def batch(options: TrainOptions) -> list[int]:
    """The two options that give the rows of a step on one process."""
    return [options.per_device_train_batch_size, options.gradient_accumulation_steps]
