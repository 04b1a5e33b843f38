"""Experiment trackers by accelerate (tensorboard, wandb, trackio, ...), beside metrics.jsonl."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raft_fast.distillation import Callback, TrainingState
from raft_fast.run.errors import UserError, first_line, require

FOLDER = "trackers"
NONE, ALL = ("", "none", "no", "off", "false"), "all"  # whatever is installed


def find_trackers(report_to: str) -> list[Any]:
    """The classes of the trackers that --report_to lists. Raises UserError for one that is not installed."""
    names = [name.strip() for name in report_to.split(",") if name.strip().lower() not in NONE]
    if not names:
        return []
    require("accelerate", "trackers")
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers

    PartialState()  # trackers ask it which process they are in
    kinds = []
    for name in names:
        try:
            found = filter_trackers([name], FOLDER)
        except ValueError as error:
            raise UserError(f"--report_to {name}: {error}") from error
        if not found and name != ALL:
            raise UserError(f"--report_to {name}: not installed: pip install {name}")
        kinds += [LOGGER_TYPE_TO_CLASS[str(kind)] for kind in found]
    return kinds


class Trackers(Callback):
    """Hands every number of a step or an evaluation on. A tracker that fails is left out from then on,
    with a warning: no run is lost over it."""

    def __init__(self, kinds: Sequence[Any], run_dir: Path, config: dict[str, Any]) -> None:
        """kinds: as `find_trackers` gives them."""
        folder = {"logging_dir": str(run_dir / FOLDER)}
        self.trackers = [kind(run_dir.resolve().name, **(folder if kind.requires_logging_directory else {}))
                         for kind in kinds]
        plain = {key: value if isinstance(value, int | float | str) else str(value)
                 for key, value in config.items()}
        self._each(lambda tracker: tracker.start() if hasattr(tracker, "start") else None)
        self._each(lambda tracker: tracker.store_init_configuration(plain))

    def on_step(self, state: TrainingState) -> None:
        self._log(state.metrics, state.step)

    def on_evaluate(self, state: TrainingState, scores: dict[str, float | None]) -> None:
        self._log(scores, state.step)

    def on_end(self, state: TrainingState) -> None:
        self._each(lambda tracker: tracker.finish())

    def _log(self, values: dict[str, Any], step: int) -> None:
        numbers = {name: float(value) for name, value in values.items()
                   if name != "step" and isinstance(value, int | float)}
        self._each(lambda tracker: tracker.log(numbers, step=step))

    def _each(self, do: Any) -> None:
        for tracker in list(self.trackers):
            try:
                do(tracker)
            except Exception as error:  # whatever a service may throw
                warnings.warn(f"the tracker {tracker.name} failed and is left out: {first_line(error)}",
                              stacklevel=3)
                self.trackers.remove(tracker)
