"""Ends of a run that nobody planned: signals, and steps whose gradient is not finite."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from raft_fast.distillation.callbacks import Callback, TrainingState
from raft_fast.distillation.checkpoint import checkpoints
from raft_fast.errors import Stopped, UserError
from raft_fast.progress import console

BAD_STEPS = 2  # in a row before a run stops


class SoftStop(Callback):
    """SIGTERM and SIGINT let the step finish and a checkpoint be saved; a second one leaves at once.

    Use as a context manager around `train`, whose callback it is: afterwards it raises Stopped.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
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
        state.stop = state.stop or self.signum is not None

    def on_end(self, state: TrainingState) -> None:
        if self.signum is not None:
            raise Stopped(self.signum, f"the checkpoint of step {state.step} of {state.total} is in "
                                       f"{state.run_dir / 'checkpoints'}")

    def _asked(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise Stopped(signum, "at once, without the step it was in")
        self.signum = signum
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
            saved = checkpoints(state.run_dir / "checkpoints")
            last = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
            raise UserError(f"loss or gradient were not finite in steps {state.step - 1} and {state.step}: "
                            f"lower --learning_rate; {last}")
