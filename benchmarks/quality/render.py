"""Page, tables and results.json anew from what a comparison left on disk; no model is loaded.

    python -m benchmarks.quality.render runs/quality/cpu
    python -m benchmarks.quality.render runs/quality/cpu --suite benchmarks/suites/cpu.yaml  # it has changed

Every finished cell in the folder is in them, whichever command made it (--methods, --seeds).
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

from benchmarks.quality.disk import BASE_ANSWERS, read_cell, read_json, read_point
from benchmarks.quality.measures import Measured
from benchmarks.quality.page import write_page
from benchmarks.quality.results import results
from benchmarks.quality.suite import Suite, load_suite
from benchmarks.quality.table import write_table
from raft_fast.run.errors import UserError, entry
from raft_fast.run.files import write_json

PARTS = ("--methods", "--seeds")
ABOUT = ("suite", "model", "data", "rows", "planned", "command", "machine", "jury")
Result = dict[str, Any]


@entry
def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.quality.render", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the --output_dir of a comparison")
    parser.add_argument("--suite", type=Path, help="the cells that are planned (default: as they were)")
    options = parser.parse_args()
    folder = options.folder
    found = again(folder)
    if options.suite:
        found["planned"] = planned(load_suite(options.suite))
    write(found, folder)
    print(f"page    {folder / 'index.html'}\nresults {folder / 'results.json'}")


def again(folder: Path) -> Result:
    """What the comparison found, by this version's measures, from its points and raw answers."""
    before = read_json(folder / "results.json")
    base = read_point(base_point(folder, before["base"]["means"]), folder / BASE_ANSWERS)
    cells = [read_cell(path) for path in finished_cells(folder)]
    outcomes = [one for one in cells if all(on_the_same_rows(base, point) for point in one.points)]
    about = {"planned": []} | {key: before[key] for key in ABOUT if key in before}
    return results(before["baseline"], base, outcomes, about | {
        "command": whole_command(before["command"])})


def planned(suite: Suite) -> list[str]:
    """The names of all cells of a suite."""
    return [cell.name for cell in suite.cells()]


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


def whole_command(command: str) -> str:
    """The command without what made it a part of the grid."""
    words, kept = shlex.split(command), []
    while words:
        word = words.pop(0)
        if word in PARTS:
            words = words[1:]
        elif word.split("=")[0] not in PARTS:
            kept.append(word)
    return shlex.join(kept)


def base_point(folder: Path, means: dict[str, float | None]) -> Path:
    """The base's own point: a folder that saw other rows or prompts before holds several."""
    found = sorted(folder.glob("base-point-*.json"))
    for path in found:
        there = read_json(path)["means"]
        if all(there[name] == mean for name, mean in means.items() if name in there):
            return path
    raise UserError(f"{folder}: has no base-point-*.json that agrees with its results.json; run the "
                    "comparison's own command again")


def write(found: Result, folder: Path) -> None:
    """results.json, RESULTS.md and index.html."""
    write_json(found, folder / "results.json")
    write_table(found, folder / "RESULTS.md")
    write_page(found, folder)


if __name__ == "__main__":
    main()
