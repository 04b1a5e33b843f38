"""Training one cell and measuring it at its checkpoints; a point that is on disk is never made again."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.quality.disk import Outcome, point_path, read_cell, read_json
from benchmarks.quality.shared import Shared, digest
from benchmarks.quality.suite import Cell, Suite
from raft_fast.data.dataset import Row
from raft_fast.distillation import Callback, TrainingState, fitting, measure, plan, rows_per_step
from raft_fast.distillation.stage2 import load_teacher, train_student
from raft_fast.engines.hf import HFEngine
from raft_fast.engines.load import load_local
from raft_fast.models.architecture import positions
from raft_fast.recipes import terms_of
from raft_fast.run.files import write_json
from raft_fast.run.options import Options


class Points(Callback):
    """Measures the student where a checkpoint has just been saved, and where a killed run goes on."""

    def __init__(self, cell: Cell, shared: Shared, folder: Path, steps: set[int]) -> None:
        self.cell, self.shared, self.folder, self.steps = cell, shared, folder, steps

    def on_begin(self, state: TrainingState) -> None:
        self._measure(state)

    def on_save(self, state: TrainingState, checkpoint: Path) -> None:
        self._measure(state)

    def _measure(self, state: TrainingState) -> None:
        path = point_path(self.folder, state.step)
        if state.step not in self.steps or path.is_file():
            return
        student, training = state.student, state.student.training
        student.eval()
        engine = HFEngine(student, self.shared.original.chat, f"{self.cell.name} step {state.step}",
                          self.shared.options.evaluate.eval_batch_size)
        place = {"method": self.cell.method, "learning_rate": self.cell.learning_rate,
                 "seed": self.cell.seed, "step": state.step}
        found = self.shared.examine(engine, self.cell.name, place, path.with_suffix(".generations.jsonl"))
        write_json(found.as_json(), path)
        student.train(training)


def run_cell(cell: Cell, suite: Suite, shared: Shared) -> Outcome:
    """Train and measure, going on where an earlier process stopped. What trained it is deleted at the
    end: points, raw answers and curves stay."""
    folder = cell_folder(cell, suite, shared)
    if not (folder / "cell.json").is_file():
        start = time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        rows = shared.rows(cell)
        steps = checkpoint_steps(step_count(rows, cell, shared, folder), suite.checkpoints)
        # two are kept: what is measured must not be the only one
        options = replace(cell.options, train=replace(
            cell.options.train, save_steps=steps[0], save_total_limit=2))
        _train(cell, rows, options, shared, folder, Points(cell, shared, folder, set(steps)))
        write_json(about(cell, options, folder, steps, len(rows)) | {
            "seconds_of_the_last_process": round(time.perf_counter() - start, 1)}, folder / "cell.json")
    for left in ("checkpoints", "model"):
        shutil.rmtree(folder / left, ignore_errors=True)
    return read_cell(folder)


def about(cell: Cell, options: Options, folder: Path, steps: list[int], rows: int) -> dict[str, Any]:
    """What a cell was, for those who read the results."""
    return {"name": cell.name, "method": cell.method, "folder": folder.name, "steps": steps, "rows": rows,
            "options": options.flat()}


def known_finished(cells: Sequence[Cell], folder: Path) -> int:
    """How many `folder` holds finished, as far as it can be told without a model: by name and options."""
    there = [read_json(path) for path in (folder / "cells").glob("*/cell.json")]
    found = [(one["name"], _lasting(one["options"])) for one in there]
    return sum((cell.name, _lasting(cell.options.flat())) in found for cell in cells)


def _lasting(options: dict[str, Any]) -> dict[str, Any]:
    """Without what a cell sets itself when it is run."""
    return {key: value for key, value in options.items() if key not in ("save_steps", "save_total_limit")}


def _train(cell: Cell, rows: Any, options: Options, shared: Shared, folder: Path,
           points: Points) -> None:
    original = shared.original
    if options.adapter.use_peft:  # its adapter goes into the model it is made from; the base stays as it is
        original = load_local("self", options.model, options.engines)
    teacher = load_teacher(options, original)
    (folder / "rejected.jsonl").touch()
    train_student(rows, terms_of(options.train.recipe, options.train), options, original, teacher, folder,
                  shared.reporter, [points])


def cell_folder(cell: Cell, suite: Suite, shared: Shared) -> Path:
    """Named after everything that the outcome depends on: a changed suite never meets old points."""
    options = {name: asdict(group) for name, group in vars(cell.options).items()}
    key = digest([options, suite.checkpoints, shared.identity()])
    return shared.folder / "cells" / f"{cell.name}-{key}"


def step_count(rows: list[Row], cell: Cell, shared: Shared, folder: Path) -> int:
    """Optimizer steps of a cell; rows that are too long are set aside, as training does."""
    training, original = cell.options.train, shared.original
    takes = positions(original.model)
    lengths = measure(rows, original.chat, terms_of(training.recipe, training), training)
    fit, _ = fitting(rows, lengths, training, takes, takes)
    return len(plan(fit, training, cell.seed, rows_per_step(training, folder)))


def checkpoint_steps(total: int, count: int) -> list[int]:
    """At most `count` steps, evenly spaced, the last one among them."""
    every = -(-total // min(count, total))
    return [*range(every, total, every), total]
