"""Callbacks: the moments of a run and what is known at each; the log, signals, transformers' own.

A callback subclasses `Callback` and overrides what it cares about. They are called in their order."""

import json
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from raft_fast.data.dataset import Row
from raft_fast.distillation.examples import Example
from raft_fast.run.errors import Stopped, UserError, first_line
from raft_fast.run.files import read_jsonl, write_jsonl
from raft_fast.run.folder import again
from raft_fast.run.processes import Processes
from raft_fast.run.progress import console

SAME_SIGNAL = 5.0  # seconds: a launcher passes on to its processes what the system sent them already
METRICS, EVALUATIONS = "metrics.jsonl", "evaluations.jsonl"
NOT_FINITE = "not finite"  # why a step was skipped
METRIC = "eval_domain_nll"  # the best is the lowest: what --load_best_model_at_end goes by


@dataclass
class TrainingState:
    """Where a run is, as callbacks see it.

    step: optimizer steps done, of `total`. metrics: the step's line of metrics.jsonl. rows, trajectories
    (token ids, row by row) and examples (the views made of both, one a row): what the step was trained on.
    stop: set it, and training stops after this step with a checkpoint. finished: set it to the reason, and no
    step comes after this one, in a resumed run neither. weights: what of the student is saved, with `save`,
    `read` and `put` (`FullWeights` or an `Adapter`).
    saved: the newest checkpoint. callbacks: all of the run."""

    run_dir: Path
    student: Any
    weights: Any
    total: int
    step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    trajectories: Sequence[list[int]] = ()
    examples: Sequence[Example] = ()
    stop: bool = False
    finished: str | None = None
    saved: Path | None = None
    callbacks: Sequence["Callback"] = ()

    def notify(self, moment: str, *more: Any) -> None:
        """Calls the callbacks in their order: in the first process, whose decisions (`stop`, `finished`) hold
        for all, then in every process those that are `everywhere`."""
        def call(everywhere: bool) -> tuple[bool, str | None]:
            for one in self.callbacks:
                if one.everywhere == everywhere:
                    getattr(one, moment)(self, *more)
            return self.stop, self.finished

        self.stop, self.finished = Processes().first(lambda: call(everywhere=False))
        call(everywhere=True)


class Callback:
    """Every moment of a run; nothing happens unless overridden.

    everywhere: whether every process of a run calls it, after the first process has called the others.
    Evaluations happen in the first process alone."""

    everywhere = False

    def on_begin(self, state: TrainingState) -> None:
        """Before the first step of this process; `state.step` is above 0 in a resumed run."""

    def on_step(self, state: TrainingState) -> None:
        """After an optimizer step."""

    def on_evaluate(self, state: TrainingState, scores: dict[str, float | None]) -> None:
        """After an evaluation during training."""

    def on_save(self, state: TrainingState, checkpoint: Path) -> None:
        """After a checkpoint is whole on disk."""

    def on_end(self, state: TrainingState) -> None:
        """After the last step, or the one after which the run was asked to end."""


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """What a log of JSON lines holds; none where there is no file. A kill may have torn its last line."""
    fix = "restore it, or delete it: training goes on from its last checkpoint, without the log before it"
    return list(read_jsonl(path, fix, ["step"], torn=True)) if path.is_file() else []


def cut_back(path: Path, step: int) -> list[dict[str, Any]]:
    """Leaves the log the lines up to a step, and returns them: what came after a checkpoint is made again."""
    kept = [line for line in whole_lines(path) if line["step"] <= step]
    write_jsonl(kept, path)
    return kept


class MetricsLog(Callback):
    """Appends a line to metrics.jsonl after every step; steps after the checkpoint are made again.

    Adds `skipped_steps`, the number of skipped steps of the run so far. Raises UserError after two steps in a
    row whose loss or gradient is not finite."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / METRICS

    def on_begin(self, state: TrainingState) -> None:
        if not state.step and (lines := whole_lines(self.path)):
            warnings.warn(f"{self.path} ends at step {lines[-1]['step']} and no checkpoint was saved yet: "
                          "training starts over", stacklevel=2)
        kept = cut_back(self.path, state.step)
        self.file = self.path.open("a", encoding="utf-8")
        state.metrics = kept[-1] if kept else {}
        self.skipped = sum(step["skipped"] for step in kept)
        self.was_bad = state.metrics.get("skipped_because") == NOT_FINITE

    def on_step(self, state: TrainingState) -> None:
        self.skipped += state.metrics["skipped"]
        state.metrics["skipped_steps"] = self.skipped
        self.file.write(json.dumps(state.metrics, allow_nan=False) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())  # a checkpoint never knows steps that the log does not
        bad = state.metrics["skipped_because"] == NOT_FINITE
        if bad and self.was_bad:
            refined = f" with {options}" if (options := again(state.run_dir)) else ""
            raise UserError(f"loss or gradient were not finite in steps {state.step - 1} and {state.step}: "
                            f"train again with a lower --learning_rate in another --output_dir{refined}; "
                            f"the last good weights: {state.saved / 'model' if state.saved else 'none'}")
        self.was_bad = bad

    def on_end(self, state: TrainingState) -> None:
        self.file.close()


class SoftStop(Callback):
    """SIGTERM and SIGINT let the step finish and a checkpoint be saved; a second one leaves at once.

    Use as a context manager around `train` and as its callback: training then ends with Stopped. Any of
    several processes may get the signal; only the first prints."""

    everywhere = True

    def __init__(self) -> None:
        self.signum, self.asked_at = 0, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "SoftStop":
        if threading.current_thread() is threading.main_thread():  # elsewhere python allows no handlers
            self._before = {each: signal.signal(each, self._asked)
                            for each in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def on_step(self, state: TrainingState) -> None:
        # what any process was sent stops all, so that none goes on alone
        state.stop = max(Processes().collect([self.signum])) > 0 or state.stop

    def on_end(self, state: TrainingState) -> None:
        if signum := max(Processes().collect([self.signum])):
            stopped = Stopped(signum, f"the checkpoint of step {state.step} of {state.total} is in "
                                      f"{state.run_dir / 'checkpoints'}")
            raise stopped if Processes().is_first else SystemExit(stopped.exit_code)

    def _asked(self, signum: int, frame: FrameType | None) -> None:
        passed_on = Processes().size > 1 and time.monotonic() - self.asked_at < SAME_SIGNAL
        if self.signum and not passed_on:
            raise Stopped(signum, "at once, without the step it was in")
        if not self.signum:
            self.signum, self.asked_at = signum, time.monotonic()
            if Processes().is_first:
                console.print("stopping: the step finishes and a checkpoint is saved; a second signal "
                              "ends it at once", markup=False, soft_wrap=True)


class TrainerEvents(Callback):
    """Keeps transformers' `TrainerState` and calls its callbacks: on_train_begin, on_step_end, on_log,
    on_evaluate, on_save, on_train_end.

    A step's line of log_history is that of metrics.jsonl, with learning_rate and epoch. If a callback sets
    `control.should_training_stop`, training ends with the step, and for good: the model is saved and can be
    evaluated. Other flags of TrainerControl are not read. A tracker that fails is dropped with a warning."""

    def __init__(self, callbacks: Iterable[TrainerCallback], args: Any, processing_class: Any = None,
                 trackers: Iterable[TrainerCallback] = ()) -> None:
        self.trackers, self.args, self.processing_class = list(trackers), args, processing_class
        self.callbacks = [*callbacks, *self.trackers]
        self.state, self.control = TrainerState(), TrainerControl()

    def on_begin(self, state: TrainingState) -> None:
        self.state.max_steps, self.state.num_train_epochs = state.total, self.args.num_train_epochs
        self.state.logging_steps, self.state.save_steps = 1, self.args.save_steps
        self.recall(state.run_dir, state.total)
        self._call("on_train_begin", state)

    def on_step(self, state: TrainingState) -> None:
        self._call("on_step_end", state)
        self._log(state, self._line(state.metrics, state.total))

    def on_evaluate(self, state: TrainingState, scores: dict[str, float | None]) -> None:
        self._log(state, {**scores, "step": state.step})
        self._call("on_evaluate", state, metrics=dict(scores))
        self._compare(scores, state.step)

    def on_save(self, state: TrainingState, checkpoint: Any) -> None:
        self._call("on_save", state)

    def on_end(self, state: TrainingState) -> None:
        self._call("on_train_end", state)

    def recall(self, run_dir: Path, total: int | None = None) -> None:
        """The log_history of a run as far as it went, of `total` steps; None: it has ended."""
        lines, scores = whole_lines(run_dir / METRICS), whole_lines(run_dir / EVALUATIONS)
        step = self.state.global_step = lines[-1]["step"] if lines else 0
        scores = [line for line in scores if line["step"] <= step]
        self.state.log_history = sorted([*(self._line(line, total or step) for line in lines), *scores],
                                        key=lambda line: int(line["step"]))
        for line in scores:
            self._compare(line, line["step"])

    def _compare(self, scores: dict[str, Any], step: int) -> None:
        score, best = scores.get(METRIC), self.state.best_metric
        if score is not None and math.isfinite(score) and (best is None or score < best):
            self.state.best_metric, self.state.best_global_step = score, step

    def _log(self, state: TrainingState, line: dict[str, Any]) -> None:
        self.state.log_history.append(line)
        self._call("on_log", state, logs={name: value for name, value in line.items() if value is not None})

    def _line(self, metrics: dict[str, Any], total: int) -> dict[str, Any]:
        return {**metrics, "learning_rate": metrics["lr"], "epoch": self._epoch(metrics["step"], total)}

    def _epoch(self, step: int, total: int) -> float | None:
        """None if --max_steps decides: the number of rows is not known here."""
        return None if self.args.max_steps > 0 else self.args.num_train_epochs * step / max(1, total)

    def _call(self, moment: str, state: TrainingState, **more: Any) -> None:
        self.state.global_step = state.step
        self.state.epoch = self._epoch(state.step, state.total) or 0.0
        for callback in list(self.callbacks):
            try:
                changed = getattr(callback, moment)(self.args, self.state, self.control, model=state.student,
                                                    processing_class=self.processing_class, **more)
            except Exception as error:  # whatever a service may raise
                if callback not in self.trackers:
                    raise
                warnings.warn(f"{type(callback).__name__} failed and is dropped: {first_line(error)}",
                              stacklevel=2)
                self.callbacks.remove(callback)
                continue
            self.control = changed or self.control
            if self.control.should_training_stop and not state.finished:
                state.finished = f"ended by {type(callback).__name__}"


def trackers_of(report_to: str) -> list[TrainerCallback]:
    """The trackers of --report_to, as in transformers. Raises UserError for an unknown or absent one."""
    names = [name.strip() for name in report_to.split(",")]
    if report_to in ("", "none"):
        return []
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        return [kind() for kind in get_reporting_integration_callbacks("all" if "all" in names else names)]
    except Exception as error:  # each in its own way
        raise UserError(f"--report_to {report_to}: {first_line(error)}") from error


def sorted_callbacks(callbacks: Iterable[Any]) -> tuple[list[Callback], list[TrainerCallback]]:
    """Callbacks of ours and of transformers; classes are instantiated. Raises UserError for anything else."""
    made = [one() if isinstance(one, type) else one for one in callbacks or ()]
    for one in made:
        if not isinstance(one, Callback | TrainerCallback):
            raise UserError(f"callbacks: {type(one).__name__} is neither a raft_fast.Callback nor a "
                            "transformers.TrainerCallback")
    return ([one for one in made if isinstance(one, Callback)],
            [one for one in made if isinstance(one, TrainerCallback)])
