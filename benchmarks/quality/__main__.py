"""Does it forget less? Trains one model by every method of a suite and compares them by their frontiers.

    python -m benchmarks.quality --suite benchmarks/suites/cpu.yaml
    python -m benchmarks.quality --suite benchmarks/suites/cpu.yaml --data zaragoza-sv

Stopped or killed, the same command resumes; a finished cell is not repeated. After every cell results.json,
RESULTS.md and index.html in --output_dir are brought up to date.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path
from statistics import fmean

from benchmarks.measure import machine
from benchmarks.quality import render
from benchmarks.quality.points import counted, read_cell
from benchmarks.quality.results import results
from benchmarks.quality.runs import Shared, prepare, run_cell
from benchmarks.quality.suite import Suite, load_suite
from raft_fast.data.records import own_file
from raft_fast.report.results import duration
from raft_fast.run.errors import entry
from raft_fast.run.progress import Reporter

SUITES = Path(__file__).parents[1] / "suites"


@entry
def main() -> None:
    options = arguments()
    whole = load_suite(options.suite)
    suite = whole.only(options.methods, options.seeds)
    if options.data:
        suite = suite.on(options.data)
    folder = options.output_dir or Path("runs/quality") / "-".join(
        [suite.name, *([Path(suite.data).stem] if suite.data else [])])
    if options.dry_run:
        if suite.data:
            own_file(suite.data)
        print(*(cell.name for cell in suite.cells()), sep="\n")
        return
    shared = prepare(suite, folder, Reporter())
    run(suite, shared, [cell.name for cell in whole.cells()])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.quality", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, default=SUITES / "cpu.yaml",
                        help="YAML file: methods, learning rates, seeds (default: %(default)s)")
    parser.add_argument("--data", help="rows instead of the suite's: a file, zaragoza-en or zaragoza-sv")
    parser.add_argument("--output_dir", type=Path, help="default: runs/quality/<suite>[-<data>]")
    parser.add_argument("--methods", type=lambda text: text.split(","), help="only these: sft,raft")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")],
                        help="instead of the suite's: 0,1,2")
    parser.add_argument("--dry_run", action="store_true", help="list the cells")
    return parser.parse_args()


def run(suite: Suite, shared: Shared, planned: list[str]) -> None:
    """Every cell that is not finished yet; results are written after each. `planned` names the cells of the
    whole suite."""
    cells, seconds, say = suite.cells(), [], shared.reporter.say
    todo = [cell for cell in cells if not (shared.cell_folder(cell, suite) / "cell.json").is_file()]
    say(f"{counted(len(cells), 'cell')}, {len(cells) - len(todo)} of them finished, in {shared.folder}")
    if not todo:
        write(suite, shared, planned)
    for number, cell in enumerate(todo, 1):
        say(f"cell {number} of {len(todo)}: {cell.name}")
        start = time.perf_counter()
        run_cell(cell, suite, shared)
        seconds.append(time.perf_counter() - start)
        write(suite, shared, planned)
        left = fmean(seconds) * (len(todo) - number)
        say(f"{cell.name} took {duration(seconds[-1])}" + (f"; about {duration(left)} left" if left else ""))
    say(f"page    {shared.folder / 'index.html'}\nresults {shared.folder / 'results.json'}")


def write(suite: Suite, shared: Shared, planned: list[str]) -> None:
    """results.json, RESULTS.md and index.html of the finished cells."""
    folders = [folder for cell in suite.cells()
               if ((folder := shared.cell_folder(cell, suite)) / "cell.json").is_file()]
    data = shared.options.data.data
    render.write(results(suite.baseline, shared.base_point(), [read_cell(folder) for folder in folders], {
        "suite": suite.name, "model": shared.original.identity, "data": data and Path(data).name,
        "rows": {"train": len(shared.data.train), "heldout": len(shared.exam.rows["domain"])},
        "planned": planned, "command": f"python -m benchmarks.quality {shlex.join(sys.argv[1:])}".strip(),
        "machine": machine(shared.original.model.device.type)}), shared.folder)


if __name__ == "__main__":
    main()
