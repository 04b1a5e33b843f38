"""A run's folder: which configuration it belongs to, what it already holds, what it cost."""

import dataclasses
import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from raft_fast.config import to_yaml
from raft_fast.dataset import write_json
from raft_fast.errors import UserError
from raft_fast.options import EngineOptions
from raft_fast.progress import Reporter

CONFIG, INPUTS, LOCK = "config.yaml", "inputs.json", ".lock"
SHOWN = 3
# how engines are driven changes no answer; where it would, their identity changes too
MAY_DIFFER = {"output_dir", "report_to", "push_to_hub", "vllm_server_base_url",
              "vllm_gpu_memory_utilization", *(one.name for one in dataclasses.fields(EngineOptions))}
PAID = ("refine", "metrics.jsonl")  # what a run has once it has cost anything


def open_run(folder: Path, options: list[Any]) -> bool:
    """Make the folder, or go on with the run in it. Returns True where it goes on.

    Raises UserError where the folder holds a run with another configuration.
    """
    make_folder(folder)
    wanted = folder / f".{CONFIG}"
    to_yaml(options, wanted)
    if not any((folder / name).exists() for name in PAID):  # a typo must not claim the folder
        wanted.replace(folder / CONFIG)
        return False
    # an option that is younger than the run had its default then
    here, there = read_yaml(wanted), defaults(options) | read_yaml(folder / CONFIG)
    wanted.unlink()
    names = [key for key in {**there, **here} if key not in MAY_DIFFER and there.get(key) != here.get(key)]
    if names:
        refined = folder / "refine/refined.parquet"
        usable = f". Answers refined there can be used: --data {refined}" if refined.is_file() else ""
        raise UserError(f"--output_dir {folder} holds a run with another configuration "
                        f"({first_of(differing(names, there, here))}): choose another folder, or the same "
                        f"options{usable}")
    return True


def defaults(options: list[Any]) -> dict[str, Any]:
    """Every option's default by its name."""
    return {one.name: one.default for group in options for one in dataclasses.fields(group)
            if one.default is not dataclasses.MISSING}


def differing(names: Iterable[str], there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What each of these options is in the folder, and what is asked for."""
    return [f"{name} is {there.get(name)!r} there and {here.get(name)!r} here" for name in names]


def first_of(told: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return "; ".join(told[:SHOWN]) + more


def make_folder(folder: Path) -> None:
    """The output folder; UserError where a file is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"--output_dir {folder}: is a file; name a folder") from error
    except OSError as error:
        raise UserError(f"--output_dir {folder}: cannot be made ({error.strerror}); name another") from error


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Make the folder and keep other processes out of it; UserError where one is at work there."""
    make_folder(folder)
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--output_dir {folder}: another process is at work in it; wait for it to end "
                            "or choose another --output_dir") from None
        yield


def pin_inputs(folder: Path, inputs: dict[str, str]) -> None:
    """Remember what the run reads (name -> fingerprint); refuse to go on when any of it has changed."""
    path = folder / INPUTS
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if any((folder / name).exists() for name in PAID):
        changed = [name for name in inputs if before.get(name) not in (None, inputs[name])]
        if changed:
            raise UserError(f"--output_dir {folder}: {' and '.join(changed)} changed since the run in it "
                            "began; choose another folder, or put back what was there")
    write_json({**before, **inputs}, path)


def save_costs(folder: Path, reporter: Reporter) -> None:
    """Add this process's time and memory by phase to the run's phases.json."""
    path = folder / "phases.json"
    costs = {cost["name"]: cost for cost in json.loads(path.read_text())} if path.is_file() else {}
    for cost in reporter.as_json():
        before = costs.get(cost["name"], {"seconds": 0.0, "peak_bytes": 0})
        costs[cost["name"]] = {"name": cost["name"], "seconds": before["seconds"] + cost["seconds"],
                               "peak_bytes": max(before["peak_bytes"], cost["peak_bytes"])}
    write_json(list(costs.values()), path)


def read_yaml(path: Path) -> dict[str, Any]:
    """What config.yaml of a run says."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
