"""The runs of a comparison: what all methods share is made once, then one cell after the other is trained,
measured at its checkpoints. What is on disk is never made again."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.points import (
    BASE_ANSWERS,
    Measured,
    measure,
    point_path,
    read_point,
)
from benchmarks.quality.suite import MAKE, Cell, Suite
from raft_fast import paraphrase
from raft_fast.data.dataset import (
    Data,
    Row,
    fingerprint_rows,
    read_table,
    screen_rows,
    spread,
    take_rows,
    write_rows,
)
from raft_fast.distillation import Callback, TrainingState, fitting, plan, rows_per_step
from raft_fast.distillation.stage2 import load_teacher, train_student
from raft_fast.engines.hf import HFEngine
from raft_fast.engines.load import load_engine
from raft_fast.evaluation.both_models import Answers, Exam, generations, set_exam, sit
from raft_fast.evaluation.drift import Probes, draw_probes, measure_drift
from raft_fast.evaluation.ifbench import fetched_suites
from raft_fast.models.architecture import positions
from raft_fast.models.chat import View
from raft_fast.models.load import load_encoder
from raft_fast.recipes import find, terms_of
from raft_fast.refinement.answers import answer_rows
from raft_fast.run.errors import UserError
from raft_fast.run.fetch import quickstart_rows
from raft_fast.run.files import write_json, write_jsonl
from raft_fast.run.options import Options, ParaphraseOptions
from raft_fast.run.progress import Reporter

Record = dict[str, Any]


@dataclass(frozen=True)
class Shared:
    """What all cells share: rows, refined answers, the base with its own answers and scores."""

    folder: Path
    options: Options
    data: Data
    original: HFEngine
    encoder: Any
    exam: Exam
    base: Answers
    probes: Probes
    reporter: Reporter

    def identity(self) -> str:
        """Tells apart whatever changes a cell's outcome, its options aside."""
        return digest([fingerprint_rows(self.data.train), *map(fingerprint_rows, self.exam.rows.values()),
                       self.original.identity, _saved(self.probes),
                       [prompt.key for prompt in self.exam.general.prompts] if self.exam.general else None])

    def rows(self, cell: Cell) -> Sequence[Row]:
        """The cell's training rows with the answers it trains on. Stage 1 runs once for each of its
        settings; all share one journal, so that no reply is asked for twice."""
        options = replace(cell.options, data=self.options.data)  # all seeds train on the same rows

        def answered() -> Sequence[Row]:
            return answer_rows(self.data, options, self.original, self.encoder, self.folder, self.reporter,
                               find(options.train.recipe).answers)

        if options.train.data_source == "gold":
            return answered()
        screen = self.options.screen
        dropped = [vars(screen)] if "drop" in (screen.duplicates, screen.overlap) else []
        key = digest([vars(options.refine), options.train.data_source, *dropped])
        path = self.folder / f"refined-{key}.parquet"
        if not path.is_file():
            write_rows(answered(), path)
        return list(read_table(str(path), 0.0).rows)

    def examine(self, engine: HFEngine, name: str, place: dict[str, Any], keep: Path) -> Measured:
        """Ask a model everything and compare it with the base; raw answers go to `keep`."""
        answers = sit(self.exam, engine, name, self.reporter)
        write_jsonl(generations(answers, name), keep)
        values = measure(answers, measure_drift(self.original, engine, self.probes, self.reporter))
        moved = weight_distance(self.original.model, engine.model)
        return Measured(**place, values=values, extra={"weights": None if moved is None else {"all": moved}})

    def base_point(self) -> Measured:
        """The base as a point: it has not moved from itself."""
        path = self.folder / f"base-point-{self.identity()}.json"
        if not path.is_file():
            drift = measure_drift(self.original, self.original, self.probes, self.reporter)
            base = Measured("base", 0.0, 0, 0, measure(self.base, drift), {"weights": None})
            write_json(base.as_json(), path)
        return read_point(path, self.folder / BASE_ANSWERS)

    def cell_folder(self, cell: Cell, suite: Suite) -> Path:
        """Named after everything that the outcome depends on: a changed suite never meets old points."""
        options = {name: asdict(group) for name, group in vars(cell.options).items()}
        key = digest([options, suite.checkpoints, self.identity()])
        return self.folder / "cells" / f"{cell.name}-{key}"


@torch.no_grad()
def weight_distance(base: Any, trained: Any) -> float | None:
    """‖W - W₀‖ / ‖W₀‖ over all weights, summed in float64; None for models with different weights."""
    before, after = dict(base.named_parameters()), dict(trained.named_parameters())
    if {name: one.shape for name, one in before.items()} != {name: one.shape for name, one in after.items()}:
        return None
    moved = norm = 0.0
    for name, old in before.items():
        moved += float((after[name].to(old.device).double() - old.double()).square().sum())
        norm += float(old.double().square().sum())
    return (moved / norm) ** 0.5 if norm else 0.0


def prepare(suite: Suite, folder: Path, reporter: Reporter) -> Shared:
    """Read and screen the rows, load the models, let the base answer; all but the loading is kept in
    `folder`. Rows are flagged in screen.json, and dropped only where the suite's options say so."""
    options = suite.shared_options()
    options = replace(options, data=replace(options.data, data=find_rows(suite.data)))
    folder.mkdir(parents=True, exist_ok=True)
    data = take_rows(options.data, options.train, folder, reporter)
    with reporter.phase("load models"):
        original = load_engine("self", options.model, None, options.evaluate.eval_batch_size,
                               options.engines, exact=True)
        encoder = load_encoder(options.model)
    suites = fetched_suites(reporter) if options.evaluate.general_prompts >= 0 else {}
    data = screen_rows(data, options.screen, suites, encoder, folder, reporter)
    heldout = spread(data.heldout, options.evaluate.eval_rows, options.data.seed)
    exam = set_exam(heldout, options.evaluate, encoder, reporter)
    asked = [vars(options.evaluate), fingerprint_rows(heldout), original.identity]
    if suite.paraphrases:
        reworded = find_paraphrases(suite.paraphrases, data, options, original, encoder, folder, reporter)
        exam = replace(exam, rows=exam.rows | {"paraphrases": list(reworded)})
        asked.append(fingerprint_rows(reworded))
    key = digest(asked)
    base = _kept(folder / f"answers-{key}.json", lambda: sit(exam, original, "base", reporter))
    write_jsonl(generations(base, "base"), folder / BASE_ANSWERS)
    probes = _kept(folder / f"probes-{key}.json", lambda: _saved(draw_probes(
        exam.drift_prompts, original, options.evaluate.drift_max_new_tokens, reporter)))
    return Shared(folder, options, data, original, encoder, exam, base,
                  {name: [View(*ids) for ids in views] for name, views in probes.items()}, reporter)


def find_paraphrases(name: str, data: Data, options: Options, original: HFEngine, encoder: Any,
                     folder: Path, reporter: Reporter) -> Sequence[Row]:
    """Reworded questions of rows that are trained on, as many as held-out rows are asked; the model makes
    them once in `folder`/paraphrases where the suite says so."""
    if name == MAKE:
        made = folder / "paraphrases"
        if not (made / paraphrase.FILE).is_file():
            paraphrase.make(data.train, str(options.data.data), original, encoder, ParaphraseOptions(),
                            options.data.seed, made, reporter)
        name = str(made / paraphrase.FILE)
    golds = {row.gold for row in data.train}
    found = [row for row in read_table(name, 0.0).rows if row.gold in golds]
    if not found:
        raise UserError(f"{name}: none of its rows has the gold answer of a row that is trained on")
    reporter.say(f"{len(found)} of {len(data.train)} trained questions in other words, from {name}")
    return list(spread(found, options.evaluate.eval_rows, options.data.seed))


def find_rows(data: str | None) -> str:
    """A file of rows: the user's own, or one language of the quickstart's rows."""
    if data == "zaragoza-sv":
        return str(quickstart_rows("sv"))
    return str(quickstart_rows()) if data in (None, "zaragoza-en") else str(data)


class Points(Callback):
    """Measures the student when a checkpoint has just been saved, and where a killed run resumes."""

    def __init__(self, cell: Cell, shared: Shared, folder: Path, steps: set[int]) -> None:
        self.cell, self.shared, self.folder, self.steps = cell, shared, folder, steps

    def on_begin(self, state: TrainingState) -> None:
        self._measure(state)

    def on_save(self, state: TrainingState, checkpoint: Path) -> None:
        self._measure(state)

    def _measure(self, state: TrainingState) -> None:
        path, cell = point_path(self.folder, state.step), self.cell
        if state.step not in self.steps or path.is_file():
            return
        student, training = state.student, state.student.training
        student.eval()
        engine = HFEngine(student, self.shared.original.chat, f"{cell.name} step {state.step}",
                          self.shared.options.evaluate.eval_batch_size)
        place = {"method": cell.method, "learning_rate": cell.learning_rate, "seed": cell.seed,
                 "step": state.step}
        found = self.shared.examine(engine, cell.name, place, path.with_suffix(".generations.jsonl"))
        write_json(found.as_json(), path)
        student.train(training)


def run_cell(cell: Cell, suite: Suite, shared: Shared) -> None:
    """Train and measure, resuming where an earlier process stopped. Checkpoints and model are deleted at
    the end: points, raw answers and curves stay."""
    folder = shared.cell_folder(cell, suite)
    if not (folder / "cell.json").is_file():
        start = time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        rows = shared.rows(cell)
        steps = checkpoint_steps(step_count(rows, cell, shared, folder), suite.checkpoints)
        # two are kept: the one being measured must not be the only one
        options = replace(cell.options, train=replace(
            cell.options.train, save_steps=steps[0], save_total_limit=2))
        _train(rows, options, shared, folder, Points(cell, shared, folder, set(steps)))
        write_json({"name": cell.name, "method": cell.method, "folder": folder.name, "steps": steps,
                    "rows": len(rows), "options": options.flat(),
                    "seconds_of_the_last_process": round(time.perf_counter() - start, 1)},
                   folder / "cell.json")
    for left in ("checkpoints", "model"):
        shutil.rmtree(folder / left, ignore_errors=True)


def _train(rows: Sequence[Row], options: Options, shared: Shared, folder: Path, points: Points) -> None:
    original = shared.original
    if options.adapter.use_peft:  # its adapter goes into the model it is made from; the base stays as it is
        original = load_engine("self", options.model, engines=options.engines, exact=True)
    teacher = load_teacher(options, original)
    (folder / "rejected.jsonl").touch()
    terms = terms_of(options.train.recipe, options.train)
    train_student(list(rows), terms, options, original, teacher, folder, shared.reporter, [points])


def step_count(rows: Sequence[Row], cell: Cell, shared: Shared, folder: Path) -> int:
    """Optimizer steps of a cell; rows that are too long are set aside, as in training."""
    training, original = cell.options.train, shared.original
    takes = positions(original.model)
    fit, *_ = fitting(rows, original.chat, terms_of(training.recipe, training), training, takes, takes)
    return len(plan(fit, training, cell.seed, rows_per_step(training, folder)))


def checkpoint_steps(total: int, count: int) -> list[int]:
    """At most `count` steps, evenly spaced, the last one among them."""
    every = -(-total // min(count, total))
    return [*range(every, total, every), total]


def digest(value: Any) -> str:
    """Ten hex digits of anything JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:10]


def _kept(path: Path, make: Callable[[], Any]) -> Any:
    """What the file holds; made and written first where it is missing."""
    if not path.is_file():
        write_json(make(), path)
    return json.loads(path.read_text(encoding="utf-8"))


def _saved(probes: Probes) -> Record:
    return {name: [[view.prompt, view.completion] for view in views] for name, views in probes.items()}
