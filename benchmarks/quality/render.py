"""Page, tables and results.json again from what a comparison left on disk; no model is loaded.

    python -m benchmarks.quality.render runs/quality/cpu
    python -m benchmarks.quality.render runs/quality/cpu --suite benchmarks/suites/cpu.yaml  # it has changed

Every finished cell in the folder is included, whichever command made it (--methods, --seeds).
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

from benchmarks.quality import page
from benchmarks.quality.points import BASE_ANSWERS, Measured, read_cell, read_json, read_point
from benchmarks.quality.results import results
from benchmarks.quality.suite import load_suite
from raft_fast.run.errors import UserError, entry
from raft_fast.run.files import write_json

ABOUT = ("suite", "model", "data", "rows", "planned", "command", "machine")
Result = dict[str, Any]


@entry
def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.quality.render", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the --output_dir of a comparison")
    parser.add_argument("--suite", type=Path, help="the cells that are planned (default: as they were)")
    options = parser.parse_args()
    found = again(options.folder)
    if options.suite:
        found["planned"] = [cell.name for cell in load_suite(options.suite).cells()]
    write(found, options.folder)
    print(f"page    {options.folder / 'index.html'}\nresults {options.folder / 'results.json'}")


def write(found: Result, folder: Path) -> None:
    """results.json, RESULTS.md and index.html."""
    write_json(found, folder / "results.json")
    page.write(found, folder)


def again(folder: Path) -> Result:
    """The results by this version's measures, from the points and raw answers of a comparison."""
    before = read_json(folder / "results.json")
    base = read_point(base_point(folder, before["base"]["means"]), folder / BASE_ANSWERS)
    cells = [read_cell(path) for path in finished_cells(folder)]
    outcomes = [one for one in cells if all(on_the_same_rows(base, point) for point in one.points)]
    part = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--methods", "--seeds"):  # they made the command a part of the grid
        part.add_argument(name)
    command = shlex.join(part.parse_known_args(shlex.split(before["command"]))[1])
    return results(before["baseline"], base, outcomes, {"planned": []} | {
        key: before[key] for key in ABOUT if key in before} | {"command": command})


def finished_cells(folder: Path) -> list[Path]:
    """The folders of finished cells in the order they were finished; of two runs of one cell (a changed
    suite) the later."""
    by_name = {}
    for path in sorted((folder / "cells").glob("*/cell.json"), key=lambda path: path.stat().st_mtime_ns):
        by_name[read_json(path)["name"]] = path.parent
    return list(by_name.values())


def on_the_same_rows(base: Measured, point: Measured) -> bool:
    """Whether a point was measured on as many rows, prompts and texts as the base."""
    return all(len(base.values[name]) == len(values) for name, values in point.values.items()
               if name in base.values)


def base_point(folder: Path, means: dict[str, float | None]) -> Path:
    """The base's own point: a folder that saw other rows or prompts before holds several."""
    for path in sorted(folder.glob("base-point-*.json")):
        there = read_json(path)["means"]
        if all(there[name] == mean for name, mean in means.items() if name in there):
            return path
    raise UserError(f"{folder}: has no base-point-*.json that agrees with its results.json; run the "
                    "comparison's own command again")


if __name__ == "__main__":
    main()
