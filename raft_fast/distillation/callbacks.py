"""Callbacks: the moments of a run and what is known at each; signals and bad steps, which end a run.

A callback subclasses `Callback` and overrides what it cares about; `train(..., callbacks=[...])` calls
them in order.
"""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from raft_fast.data.dataset import Row
from raft_fast.distillation.checkpoint import MODEL, checkpoints
from raft_fast.distillation.examples import Example
from raft_fast.distillation.weights import AsModel
from raft_fast.run.errors import Stopped, UserError
from raft_fast.run.folder import again
from raft_fast.run.processes import Processes
from raft_fast.run.progress import console

BAD_STEPS = 2  # in a row before a run stops
SAME_SIGNAL = 5.0  # seconds: a launcher passes on to its processes what the system sent them already


@dataclass
class TrainingState:
    """Where a run is, as callbacks see it.

    step: optimizer steps done, of `total`. metrics: the step's line of metrics.jsonl. rows, trajectories
    (token ids, as many for each row as are drawn, row by row) and examples (the views made of both, one a
    row): what the step was trained on. stop: set it, and
    training stops after this step with a checkpoint. finished: set it to why, and no step comes after this
    one, in a resumed run neither. weights: what of the student is saved, and how. listeners: every callback
    of the run, for those who have something to tell the others.
    """

    run_dir: Path
    student: Any
    weights: AsModel
    total: int
    step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    trajectories: Sequence[list[int]] = ()
    examples: Sequence[Example] = ()
    stop: bool = False
    finished: str | None = None
    listeners: "Callback" = field(default_factory=lambda: Callback())


class Callback:
    """Every moment of a run; nothing happens unless overridden.

    everywhere: whether every process of a run calls it, after those that the first one has for itself.
    """

    everywhere = False

    def on_begin(self, state: TrainingState) -> None:
        """Before the first step of this process; `state.step` is above 0 where a run goes on."""

    def on_step(self, state: TrainingState) -> None:
        """After an optimizer step."""

    def on_evaluate(self, state: TrainingState, scores: dict[str, float | None]) -> None:
        """After an evaluation during training."""

    def on_save(self, state: TrainingState, checkpoint: Path) -> None:
        """After a checkpoint is whole on disk."""

    def on_end(self, state: TrainingState) -> None:
        """After the last step, or the one after which the run was asked to end."""


class OverProcesses(Callback):
    """Callbacks of the first process, in their order, whose decisions (`stop`, `finished`) hold for all; then
    those that are `everywhere`. The first process evaluates; the others hear of it after that moment."""

    def __init__(self, members: Sequence[Callback], processes: Processes) -> None:
        self.processes = processes
        self.first = [member for member in members if not member.everywhere]
        self.all = [member for member in members if member.everywhere]
        self.evaluated: list[dict[str, float | None]] = []

    def on_begin(self, state: TrainingState) -> None:
        self._tell(state, lambda member: member.on_begin(state))

    def on_step(self, state: TrainingState) -> None:
        self._tell(state, lambda member: member.on_step(state))

    def on_evaluate(self, state: TrainingState, scores: dict[str, float | None]) -> None:
        for member in self.first:
            member.on_evaluate(state, scores)
        self.evaluated.append(scores)

    def on_save(self, state: TrainingState, checkpoint: Path) -> None:
        self._tell(state, lambda member: member.on_save(state, checkpoint))

    def on_end(self, state: TrainingState) -> None:
        self._tell(state, lambda member: member.on_end(state))

    def _tell(self, state: TrainingState, moment: Callable[[Callback], None]) -> None:
        def decide() -> tuple[bool, str | None, list[dict[str, float | None]]]:
            for member in self.first:
                moment(member)
            evaluated, self.evaluated = self.evaluated, []
            return state.stop, state.finished, evaluated

        state.stop, state.finished, evaluated = self.processes.first(decide)
        for member in self.all:
            moment(member)
            for scores in evaluated:
                member.on_evaluate(state, scores)


class SoftStop(Callback):
    """SIGTERM and SIGINT let the step finish and a checkpoint be saved; a second one leaves at once.

    Use as a context manager around `train`, whose callback it is: afterwards it raises Stopped. Of several
    processes any may be the one that was signalled; only the first says so.
    """

    everywhere = True

    def __init__(self) -> None:
        self.signum: int | None = None
        self.asked_at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "SoftStop":
        if threading.current_thread() is threading.main_thread():  # elsewhere python allows no handlers
            self._before = {each: signal.signal(each, self._asked)
                            for each in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def on_step(self, state: TrainingState) -> None:
        state.stop = state.stop or self._signal_to_any() is not None

    def on_end(self, state: TrainingState) -> None:
        if (signum := self._signal_to_any()) is not None:
            stopped = Stopped(signum, f"the checkpoint of step {state.step} of {state.total} is in "
                                      f"{state.run_dir / 'checkpoints'}")
            raise stopped if Processes().is_first else SystemExit(stopped.exit_code)

    def _signal_to_any(self) -> int | None:
        """The same on every process, so that none goes on alone; all take part."""
        return max(Processes().collect([self.signum or 0])) or None

    def _asked(self, signum: int, frame: FrameType | None) -> None:
        processes = Processes()
        if self.signum is not None:
            if processes.size > 1 and time.monotonic() - self.asked_at < SAME_SIGNAL:
                return
            raise Stopped(signum, "at once, without the step it was in")
        self.signum, self.asked_at = signum, time.monotonic()
        if processes.is_first:
            console.print("stopping: the step finishes and a checkpoint is saved; once more leaves at once",
                          markup=False, soft_wrap=True)


class StopOnBadSteps(Callback):
    """Raises UserError after two steps in a row whose loss or gradient is not finite."""

    def __init__(self) -> None:
        self.bad_steps = 0

    def on_begin(self, state: TrainingState) -> None:
        self.bad_steps = int(state.metrics.get("skipped_because") == "not finite")

    def on_step(self, state: TrainingState) -> None:
        bad = state.metrics["skipped_because"] == "not finite"
        self.bad_steps = self.bad_steps + 1 if bad else 0
        if self.bad_steps >= BAD_STEPS:
            raise UserError(f"loss or gradient were not finite in steps {state.step - 1} and {state.step}: "
                            f"{how_to_begin_again(state.run_dir)}")


def how_to_begin_again(run_dir: Path) -> str:
    """What to do where a run has gone wrong: options that the program takes."""
    saved = checkpoints(run_dir / "checkpoints")
    refined = f" with {options}" if (options := again(run_dir)) else ""
    told = f"train again with a lower --learning_rate in another --output_dir{refined}"
    if not saved:
        return f"{told} (there is no checkpoint yet)"
    last = saved[-1] / MODEL
    if (last / "config.json").is_file():
        return f"{told}, from the start or from the last good weights: --model {last} (which then teach too)"
    return f"{told}; the last good adapter is {last}"
