"""A run's folder: made, kept to one process, what was spent in it, and how differences are told."""

import dataclasses
import fcntl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raft_fast.run.errors import UserError
from raft_fast.run.files import read_json, write_json
from raft_fast.run.options import ALL_GROUPS, named, pinned_by
from raft_fast.run.progress import Reporter

CONFIG, LOCK = "config.yaml", ".lock"
SHOWN = 3
ENGINES = named(ALL_GROUPS, "engines")  # compared by model name, not by address
LISTED = named(ALL_GROUPS, "listed")
FREE = pinned_by(ALL_GROUPS, "nothing")


def defaults(options: list[Any]) -> dict[str, Any]:
    """Every option's default by its name."""
    return {one.name: one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
            for group in options for one in dataclasses.fields(group)}


def meant(name: str, value: Any) -> Any:
    """The part of an option's value that decides what comes out: names without spaces, models without
    addresses, of --engine_overrides no limits or prices."""
    if name == "engine_overrides":
        kept = {without_address(engine): {key: one for key, one in own.items() if key not in FREE}
                for engine, own in (value or {}).items()}
        return {engine: own for engine, own in kept.items() if own}
    if name not in LISTED | ENGINES:
        return value
    names = [one.strip() for one in str(value or "").split(",") if one.strip()]
    return [without_address(one) for one in names] if name in ENGINES else names


def without_address(engine: str) -> str:
    """MODEL of MODEL@URL."""
    return engine.rpartition("@http")[0] or engine


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


def save_costs(folder: Path, reporter: Reporter) -> None:
    """Add this process's time and memory by phase to the run's phases.json."""
    path, costs = folder / "phases.json", {}
    try:
        if path.is_file():
            found = read_json(path, "costs are counted from here on", list, ["name", "seconds", "peak_bytes"])
            costs = {cost["name"]: cost for cost in found}
    except UserError as error:  # no reason to lose what the costs were for
        reporter.say(str(error))
    for cost in reporter.as_json():
        before = costs.get(cost["name"], {"seconds": 0.0, "peak_bytes": 0})
        costs[cost["name"]] = {"name": cost["name"], "seconds": before["seconds"] + cost["seconds"],
                               "peak_bytes": max(before["peak_bytes"], cost["peak_bytes"])}
    write_json(list(costs.values()), path)
