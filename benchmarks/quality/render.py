"""Page, tables and results.json anew from what a comparison left on disk; no model is loaded.

    python -m benchmarks.quality.render runs/quality/cpu
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.quality.disk import BASE_ANSWERS, read_cell, read_json, read_point
from benchmarks.quality.page import write_page
from benchmarks.quality.results import results
from benchmarks.quality.table import write_table
from raft_fast.dataset import write_json
from raft_fast.errors import UserError, entry

ABOUT = ("suite", "model", "data", "rows", "unfinished", "command", "machine", "jury")
Result = dict[str, Any]


@entry
def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.quality.render", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the --output_dir of a comparison")
    folder = parser.parse_args().folder
    write(again(folder), folder)
    print(f"page    {folder / 'index.html'}\nresults {folder / 'results.json'}")


def again(folder: Path) -> Result:
    """What the comparison found, by this version's measures, from its points and raw answers."""
    before = read_json(folder / "results.json")
    outcomes = [read_cell(folder / "cells" / cell["folder"]) for cell in before["cells"]]
    base = read_point(base_point(folder, before["base"]["means"]), folder / BASE_ANSWERS)
    return results(before["baseline"], base, outcomes,
                   {key: before[key] for key in ABOUT if key in before})


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
