"""A run's folder: kept to one process, opened, and resumed with the same inputs and options.

A resumed run may change what it has not paid for: everything before stage 1 has a reply, the options of
training before the first step, those of the evaluation before it is written, and at any time options that pin
nothing (`raft_fast.run.option`)."""

import dataclasses
import fcntl
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raft_fast.run.errors import UserError
from raft_fast.run.files import read_json, read_yaml, write_json, write_yaml
from raft_fast.run.option import default_of, flat, named, pinned_by
from raft_fast.run.options import ALL_GROUPS
from raft_fast.run.progress import Reporter

CONFIG, LOCK, INPUTS = "config.yaml", ".lock", "inputs.json"
REFINED, HELDOUT = "refine/refined.parquet", "heldout.parquet"
# what training leaves before its first step, made with options that may change until then
BEGUN = ("metrics.jsonl", "evaluations.jsonl", "completions.jsonl", "first_batch.md", "best")
ENGINES, LISTED = named(ALL_GROUPS, "engines"), named(ALL_GROUPS, "listed")
FREE = pinned_by(ALL_GROUPS, "nothing")


def make_folder(folder: Path) -> None:
    """The output folder; UserError if a file is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "is a file" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise UserError(f"--output_dir {folder}: {why}; name another folder") from error


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Make the folder and lock out other processes; UserError if one is at work there."""
    make_folder(folder)
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--output_dir {folder}: another process is at work in it; wait for it to end "
                            "or choose another --output_dir") from None
        yield


def open_run(folder: Path, options: list[Any]) -> list[str] | None:
    """Make the folder for a new run (None), or resume the one in it; returns which options that changes.
    Raises UserError if it has a run with different options."""
    make_folder(folder)
    known, cost = (folder / CONFIG).is_file(), paid(folder)
    here, there = flat(options), defaults(options)  # a run that is older than an option had its default
    if known:
        there |= read_yaml(folder / CONFIG, "restore it, or choose another --output_dir")
    changed = [key for key in here if there[key] != here[key]]
    matter = [key for key in changed if key not in FREE and meant(key, there[key]) != meant(key, here[key])]
    finished, stepped = (folder / "evaluation.json").is_file(), has_steps(folder)
    free = (set() if finished else pinned_by(options, "evaluation")) | (
        set() if stepped else pinned_by(options, "training"))
    if cost and (refused := [key for key in matter if key not in free]):
        raise UserError(f"--output_dir {folder} already contains a run with different options "
                        f"({'; '.join(differing(refused, there, here))}); use a new --output_dir or the "
                        "original options")
    if known and matter and not stepped:
        for path in (folder / name for name in BEGUN):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if not finished:  # a finished run was what it was
        write_yaml(here, folder / CONFIG)
    return differing([key for key in changed if key != "output_dir"], there, here) if cost else None


def find_run(model: Path) -> Path:
    """The run of a model's folder, RUN/model or RUN/checkpoints/step-N/model; else its parent."""
    return next((folder for folder in model.parents[:3] if (folder / HELDOUT).is_file()), model.parent)


def has_steps(folder: Path) -> bool:
    """Whether training has done a step."""
    log = folder / "metrics.jsonl"
    return any((folder / "checkpoints").glob("step-*")) or (log.is_file() and b"\n" in log.read_bytes())


def paid(folder: Path) -> bool:
    """Whether a run has cost anything: replies of stage 1, or steps."""
    replies = (folder / "refine/journal.jsonl", folder / REFINED)
    return has_steps(folder) or any(path.is_file() and path.stat().st_size for path in replies)


def again(folder: Path) -> str:
    """Options that train on the refined answers of a run with the same rows held out; empty without them."""
    if not (folder / REFINED).is_file():
        return ""
    return f"--data {folder / REFINED} --heldout_data {folder / HELDOUT}"


def pin_inputs(folder: Path, inputs: Mapping[str, str], paid: Callable[[Path], bool] = paid) -> None:
    """Remember what the run reads (name -> fingerprint); UserError if it changed after it was `paid` for."""
    path = folder / INPUTS
    before = read_json(path, "restore it, or delete it to resume with the data and models that this command "
                       "names") if path.is_file() else {}
    changed = [name for name in inputs if before.get(name) not in (None, inputs[name])]
    if changed and paid(folder):
        raise UserError(f"--output_dir {folder}: {' and '.join(changed)} changed since the run in it began; "
                        "use a new --output_dir or the original inputs")
    write_json({**before, **inputs}, path)


def defaults(options: Iterable[Any]) -> dict[str, Any]:
    """Every option's default by its name."""
    return {one.name: default_of(one) for group in options for one in dataclasses.fields(group)}


def meant(name: str, value: Any) -> Any:
    """The part of an option's value that decides what comes out: names without spaces, models without
    addresses."""
    names = [one.strip() for one in str(value or "").split(",") if one.strip()]
    if name in ENGINES:
        return [one.rpartition("@http")[0] or one for one in names]  # MODEL of MODEL@URL
    return names if name in LISTED else value


def differing(names: Iterable[str], there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Each of these options in the folder and on the command line."""
    return [f"{name} is {there.get(name)!r} there and {here.get(name)!r} here" for name in names]


def save_costs(folder: Path, reporter: Reporter) -> None:
    """Add this process's time and memory by phase to the run's phases.json."""
    path, costs = folder / "phases.json", {}
    try:
        if path.is_file():
            found = read_json(path, "costs are counted from here on", list, ["name", "seconds", "peak_bytes"])
            costs = {cost["name"]: cost for cost in found}
    except UserError as error:  # no reason to lose what the costs were for
        reporter.say(str(error))
    for name, seconds, peak in reporter.costs:
        before = costs.get(name, {"seconds": 0.0, "peak_bytes": 0})
        costs[name] = {"name": name, "seconds": before["seconds"] + seconds,
                       "peak_bytes": max(before["peak_bytes"], peak)}
    write_json(list(costs.values()), path)
