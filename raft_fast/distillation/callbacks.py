"""What may listen to a run: a few moments, and what is known at each of them.

A callback subclasses `Callback` and overrides what it cares about; `train(..., callbacks=[...])` calls
them in order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Row
from raft_fast.distillation.examples import Example
from raft_fast.distillation.weights import AsModel
from raft_fast.run.processes import Processes


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


class Callbacks(Callback):
    """Several callbacks as one, in their order."""

    def __init__(self, members: Sequence[Callback]) -> None:
        self.members = members

    def on_begin(self, state: TrainingState) -> None:
        for member in self.members:
            member.on_begin(state)

    def on_step(self, state: TrainingState) -> None:
        for member in self.members:
            member.on_step(state)

    def on_evaluate(self, state: TrainingState, scores: dict[str, float | None]) -> None:
        for member in self.members:
            member.on_evaluate(state, scores)

    def on_save(self, state: TrainingState, checkpoint: Path) -> None:
        for member in self.members:
            member.on_save(state, checkpoint)

    def on_end(self, state: TrainingState) -> None:
        for member in self.members:
            member.on_end(state)


class OverProcesses(Callback):
    """Callbacks of the first process, whose decisions (`stop`, `finished`) hold for all; then those that are
    `everywhere`. An evaluation is one of the first's moments: the others hear of it after that moment."""

    def __init__(self, members: Sequence[Callback], processes: Processes) -> None:
        self.processes = processes
        self.first = Callbacks([member for member in members if not member.everywhere])
        self.all = Callbacks([member for member in members if member.everywhere])
        self.evaluated: list[dict[str, float | None]] = []

    def on_begin(self, state: TrainingState) -> None:
        self._tell(state, lambda them: them.on_begin(state))

    def on_step(self, state: TrainingState) -> None:
        self._tell(state, lambda them: them.on_step(state))

    def on_evaluate(self, state: TrainingState, scores: dict[str, float | None]) -> None:
        """Called by who evaluates, on the first process."""
        self.first.on_evaluate(state, scores)
        self.evaluated.append(scores)

    def on_save(self, state: TrainingState, checkpoint: Path) -> None:
        self._tell(state, lambda them: them.on_save(state, checkpoint))

    def on_end(self, state: TrainingState) -> None:
        self._tell(state, lambda them: them.on_end(state))

    def _tell(self, state: TrainingState, moment: Callable[[Callback], None]) -> None:
        def decide() -> tuple[bool, str | None, list[dict[str, float | None]]]:
            moment(self.first)
            evaluated, self.evaluated = self.evaluated, []
            return state.stop, state.finished, evaluated

        state.stop, state.finished, evaluated = self.processes.first(decide)
        moment(self.all)
        for scores in evaluated:
            self.all.on_evaluate(state, scores)
