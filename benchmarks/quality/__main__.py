"""Does it forget less? Trains one model by every method of a suite and compares them by their frontiers.

    python -m benchmarks.quality --suite benchmarks/suites/cpu.yaml
    python -m benchmarks.quality --suite benchmarks/suites/cpu.yaml --data zaragoza-sv

Stopped or killed, the same command goes on: a finished cell is not repeated. After every cell
results.json, RESULTS.md and index.html in --output_dir are brought up to date.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path
from statistics import fmean

from benchmarks.measure import machine
from benchmarks.quality import render
from benchmarks.quality.cells import cell_folder, known_finished, run_cell
from benchmarks.quality.disk import BASE_ANSWERS, read_cell, read_point
from benchmarks.quality.jury import agreement_of, judge_answers
from benchmarks.quality.measures import Measured, measure
from benchmarks.quality.results import results
from benchmarks.quality.shared import Shared, prepare
from benchmarks.quality.suite import Suite, load_suite
from raft_fast.data.records import own_file
from raft_fast.engines import Engine
from raft_fast.engines.load import load_engine
from raft_fast.evaluation.drift import measure_drift
from raft_fast.evaluation.jury import Jury, open_jury
from raft_fast.report.text import counted, duration
from raft_fast.run.errors import entry
from raft_fast.run.files import write_json
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
        cells = suite.cells()
        print(*(cell.name for cell in cells), sep="\n")
        print(told(len(cells), known_finished(cells, folder), folder))
        return
    reporter = Reporter()
    shared = prepare(suite, folder, reporter)

    def judge(spec: str) -> Engine:
        return load_engine(spec, shared.options.model, shared.original,
                           shared.options.evaluate.eval_batch_size, shared.options.engines)

    with open_jury(suite.juries(), judge, folder / "jury") as jury:
        run(suite, shared, jury, render.planned(whole), reporter)


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
    parser.add_argument("--dry_run", action="store_true", help="list the cells, count the finished ones")
    return parser.parse_args()


def told(cells: int, finished: int, folder: Path) -> str:
    return f"{counted(cells, 'cell')}, {finished} of them finished, in {folder}"


def run(suite: Suite, shared: Shared, jury: Jury | None, planned: list[str], reporter: Reporter) -> None:
    """Every cell that is not finished yet; what is known so far is written after each. `planned` names the
    cells of the whole suite."""
    cells, seconds = suite.cells(), []
    todo = [cell for cell in cells if not (cell_folder(cell, suite, shared) / "cell.json").is_file()]
    reporter.say(told(len(cells), len(cells) - len(todo), shared.folder))
    if not todo:
        write(suite, shared, jury, planned)
    for number, cell in enumerate(todo, 1):
        reporter.say(f"cell {number} of {len(todo)}: {cell.name}")
        start = time.perf_counter()
        run_cell(cell, suite, shared)
        seconds.append(time.perf_counter() - start)
        write(suite, shared, jury, planned)
        left = fmean(seconds) * (len(todo) - number)
        reporter.say(f"{cell.name} took {duration(seconds[-1])}"
                     + (f"; about {duration(left)} left" if left else ""))
    reporter.say(f"page    {shared.folder / 'index.html'}\nresults {shared.folder / 'results.json'}")


def write(suite: Suite, shared: Shared, jury: Jury | None, planned: list[str]) -> None:
    """results.json, RESULTS.md and index.html of the cells that are finished, judged where there is a
    jury."""
    folders = [folder for cell in suite.cells()
               if ((folder := cell_folder(cell, suite, shared)) / "cell.json").is_file()]
    if not folders:
        return
    judged = {}
    if jury is not None:
        answers = [shared.folder / BASE_ANSWERS, *(
            path for folder in folders for path in sorted(folder.glob("*.generations.jsonl")))]
        judge_answers(answers, jury, shared.reporter)
        judged = {"jury": agreement_of(answers, jury)}
    outcomes = [read_cell(folder) for folder in folders]
    render.write(results(suite.baseline, base_measured(shared), outcomes, {
        "suite": suite.name,
        "model": shared.original.identity, "data": shared.options.data.data and Path(
            shared.options.data.data).name,
        "rows": {"train": len(shared.data.train), "heldout": len(shared.exam.rows["domain"])},
        "planned": planned,
        "command": f"python -m benchmarks.quality {shlex.join(sys.argv[1:])}".strip(),
        "machine": machine(shared.original.model.device.type), **judged}), shared.folder)


def base_measured(shared: Shared) -> Measured:
    """The base as a point: it has not moved from itself."""
    path = shared.folder / f"base-point-{shared.identity()}.json"
    if not path.is_file():
        drift = measure_drift(shared.original, shared.original, shared.probes, shared.reporter)
        base = Measured("base", 0.0, 0, 0, measure(shared.base, drift), {"weights": None})
        write_json(base.as_json(), path)
    return read_point(path, shared.folder / BASE_ANSWERS)


if __name__ == "__main__":
    main()
