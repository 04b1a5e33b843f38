"""A run as transformers' Trainer shows it: `TrainerState` with its log_history, and `TrainerCallback`s."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from raft_fast.distillation.callbacks import Callback, TrainingState
from raft_fast.distillation.metrics import METRICS, whole_lines
from raft_fast.run.errors import UserError

METRIC = "eval_domain_nll"  # the best is the lowest: what --load_best_model_at_end goes by


class TrainerEvents(Callback):
    """Keeps a `TrainerState` and calls transformers' callbacks: on_train_begin, on_step_end, on_log,
    on_evaluate, on_save, on_train_end.

    A step's line of log_history is that of metrics.jsonl, with learning_rate and epoch. Where a callback sets
    `control.should_training_stop`, training ends with the step, and for good: the model is saved and can be
    evaluated. The other flags of TrainerControl are not read.
    """

    def __init__(self, callbacks: Iterable[TrainerCallback], args: Any, processing_class: Any = None) -> None:
        self.callbacks, self.args, self.processing_class = list(callbacks), args, processing_class
        self.state, self.control = TrainerState(), TrainerControl()

    def on_begin(self, state: TrainingState) -> None:
        self.state.max_steps, self.state.num_train_epochs = state.total, self.args.num_train_epochs
        self.state.logging_steps, self.state.save_steps = 1, self.args.save_steps
        self.recall(state.run_dir, state.total)
        self._move(state)
        self._call("on_train_begin", state)

    def on_step(self, state: TrainingState) -> None:
        self._move(state)
        self._call("on_step_end", state)
        self._history().append(self._line(state.metrics, state.total))
        self._call("on_log", state, logs=self.state.log_history[-1])

    def on_evaluate(self, state: TrainingState, scores: dict[str, float | None]) -> None:
        self._move(state)
        self._history().append({**scores, "step": state.step})
        self._call("on_evaluate", state, metrics=dict(scores))
        score, best = scores.get(METRIC), self.state.best_metric
        if score is not None and math.isfinite(score) and (best is None or score < best):
            self.state.best_metric, self.state.best_global_step = score, state.step

    def on_save(self, state: TrainingState, checkpoint: Any) -> None:
        self._call("on_save", state)

    def on_end(self, state: TrainingState) -> None:
        self._call("on_train_end", state)

    def recall(self, run_dir: Path, total: int | None = None) -> None:
        """The log_history of a run as far as it went, of `total` steps; None: it has ended."""
        lines = whole_lines(run_dir / METRICS)
        self.state.global_step = lines[-1]["step"] if lines else 0
        self.state.log_history = [self._line(line, total or self.state.global_step) for line in lines]

    def _history(self) -> list[dict[str, Any]]:
        return self.state.log_history

    def _line(self, metrics: dict[str, Any], total: int) -> dict[str, Any]:
        return {**metrics, "learning_rate": metrics["lr"], "epoch": self._epoch(metrics["step"], total)}

    def _epoch(self, step: int, total: int) -> float | None:
        """None if --max_steps decides: the number of rows is not known here."""
        return None if self.args.max_steps > 0 else self.args.num_train_epochs * step / max(1, total)

    def _move(self, state: TrainingState) -> None:
        self.state.global_step = state.step
        self.state.epoch = self._epoch(state.step, state.total) or 0.0

    def _call(self, moment: str, state: TrainingState, **more: Any) -> None:
        for callback in self.callbacks:
            changed = getattr(callback, moment)(self.args, self.state, self.control, model=state.student,
                                                processing_class=self.processing_class, **more)
            self.control = changed or self.control
            if self.control.should_training_stop and not state.finished:
                state.finished = f"ended by {type(callback).__name__}"


def sorted_callbacks(callbacks: Iterable[Any]) -> tuple[list[Callback], list[TrainerCallback]]:
    """Our callbacks and those of transformers, classes among them made. Raises UserError for others."""
    made = [one() if isinstance(one, type) else one for one in callbacks or ()]
    for one in made:
        if not isinstance(one, Callback | TrainerCallback):
            raise UserError(f"callbacks: {type(one).__name__} is neither a raft_fast.Callback nor a "
                            "transformers.TrainerCallback")
    return ([one for one in made if isinstance(one, Callback)],
            [one for one in made if isinstance(one, TrainerCallback)])
