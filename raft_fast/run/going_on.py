"""Going on with a run: whose folder it is, what it has cost, and which options may be others than before.

What a run has cost comes in two parts. Until stage 1 has a reply everything may change; until training has a
step everything that stage 1 does not depend on; then only how the run is driven.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raft_fast.run.config import to_yaml
from raft_fast.run.errors import UserError
from raft_fast.run.files import read_json, read_yaml, write_json
from raft_fast.run.folder import CONFIG, defaults, differing, first_of, make_folder, meant
from raft_fast.run.options import flat, pinned_by

INPUTS, REFINED, HELDOUT = "inputs.json", "refine/refined.parquet", "heldout.parquet"
FIX_CONFIG = "restore it, or choose another --output_dir"
# what training leaves before its first step, of options that may change until then
BEGUN = ("metrics.jsonl", "evaluations.jsonl", "general_answers.jsonl", "completions.jsonl", "first_batch.md",
         "collapse.json", "best")


@dataclass(frozen=True)
class Start:
    """How a command found its folder: with a run to go on with or not, and which options are others there."""

    resumed: bool
    changed: list[str] = field(default_factory=list)


def open_run(folder: Path, options: list[Any]) -> Start:
    """Make the folder, or go on with the run in it.

    Raises UserError where the folder holds a run with another configuration.
    """
    make_folder(folder)
    known, cost = (folder / CONFIG).is_file(), paid(folder)
    # an option that is younger than the run had its default then
    there = defaults(options) | (read_yaml(folder / CONFIG, FIX_CONFIG) if known else {})
    here = flat(options)
    others = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    free = pinned_by(options, "nothing")
    matter = [key for key in others if key not in free
              and meant(key, there.get(key)) != meant(key, here.get(key))]
    finished, stepped = (folder / "evaluation.json").is_file(), has_steps(folder)
    if not finished:
        free |= pinned_by(options, "evaluation")
    if not stepped:
        free |= pinned_by(options, "training")
    if cost and (refused := [key for key in matter if key not in free]):
        told = differing(refused, there, here)
        raise UserError(f"--output_dir {folder} holds a run with another configuration ({first_of(told)}): "
                        f"choose another folder, or the same options{_answers_there(folder)}")
    if known and matter and not stepped:  # no step has been done, so nothing is lost
        _begin_training_anew(folder)
    if not finished:  # a finished run was what it was
        to_yaml(options, folder / CONFIG)
    return Start(cost, differing([key for key in others if key != "output_dir"], there, here) if cost else [])


def has_steps(folder: Path) -> bool:
    """Whether training has done a step."""
    log = folder / "metrics.jsonl"
    if any((folder / "checkpoints").glob("step-*")):
        return True
    if not log.is_file():
        return False
    with log.open("rb") as file:
        return file.readline().endswith(b"\n")


def paid(folder: Path) -> bool:
    """Whether a run has cost anything: replies of stage 1, or steps."""
    replies = (folder / "refine/journal.jsonl", folder / REFINED)
    return has_steps(folder) or any(path.is_file() and path.stat().st_size for path in replies)


def again(folder: Path) -> str:
    """Options that train on the answers that a run has refined, with the same rows held out; empty where
    there are none."""
    if not (folder / REFINED).is_file():
        return ""
    return f"--data {folder / REFINED} --heldout_data {folder / HELDOUT}"


def _answers_there(folder: Path) -> str:
    options = again(folder)
    return f". Answers refined there can be used: {options}" if options else ""


def _begin_training_anew(folder: Path) -> None:
    """Forget what training with other options has left before its first step."""
    for name in BEGUN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def pin_inputs(folder: Path, inputs: dict[str, str], paid: Callable[[Path], bool] = paid) -> None:
    """Remember what the run reads (name -> fingerprint); refuse to go on when any of it has changed since
    it has `paid` for it."""
    path = folder / INPUTS
    before = read_json(path, "restore it, or delete it to go on with the data and models that this command "
                       "names") if path.is_file() else {}
    if paid(folder):
        changed = [name for name in inputs if before.get(name) not in (None, inputs[name])]
        if changed:
            raise UserError(f"--output_dir {folder}: {' and '.join(changed)} changed since the run in it "
                            "began; choose another folder, or put back what was there")
    write_json({**before, **inputs}, path)
