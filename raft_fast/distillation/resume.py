"""What a checkpoint holds beside the weights, and resuming from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import set_seed

from raft_fast.distillation.callbacks import TrainingState
from raft_fast.distillation.checkpoint import random_state, restore, save_checkpoint, set_random_state
from raft_fast.distillation.planning import batch
from raft_fast.distillation.rollouts import RolloutBuffer, RolloutEngine
from raft_fast.distillation.step import Stepper
from raft_fast.distillation.weights import WholeOptimizer, gather_optimizer, gather_weights
from raft_fast.engines import stable_seed
from raft_fast.run.errors import UserError
from raft_fast.run.options import TrainOptions
from raft_fast.run.processes import Processes
from raft_fast.run.progress import console


@dataclass
class Resumable:
    """The state of a run. All processes call its methods together; the first one writes.

    rollouts: None if nothing is sampled. rows_per_step: over all processes.
    """

    state: TrainingState
    stepper: Stepper
    scheduler: Any
    rollouts: RolloutBuffer | None
    options: TrainOptions
    rows_per_step: int
    seed: int
    rows: str  # fingerprint of what the steps are made of: one row more is another order for all of them

    def restore(self) -> None:
        """Go back to the newest whole checkpoint, if any. Raises UserError if its steps had other rows."""
        kept = restore(self._folder, self.state.weights, WholeOptimizer(self.stepper.optimizer))
        if kept is None:
            return
        if kept.get("rows", self.rows) != self.rows:
            raise UserError(f"{self._folder}: its steps had other rows, or the same in another order; go on "
                            "with the data, --parallelism and screening that the run began with, or choose "
                            "another --output_dir")
        self.state.step, self.state.finished = kept["step"], kept["finished"]
        if Processes().is_first:
            console.print(f"going on from the checkpoint of step {self.state.step} of {self.state.total}",
                          markup=False, soft_wrap=True)
        self.stepper.balance.load(kept["balance"])
        if halved := kept.get("halved_to"):  # smaller micro-batches take λ from elsewhere
            self.stepper.limits = replace(self.stepper.limits, rows=min(halved, self.stepper.limits.rows))
        self._say_where_lambda_moves(kept)
        self.scheduler.load_state_dict(kept["scheduler"])
        for group, lr in zip(self.stepper.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = lr  # a loaded schedule does not touch the optimizer until its next step
        if self.rollouts:
            self.rollouts.load(kept["buffer"])
        go_on(kept.get("processes", []), self._engine, Processes(), [self.seed, self.state.step])

    def save(self) -> Path:
        """Write the checkpoint of the step just done; returns its folder."""
        processes = Processes()
        kept = {"balance": self.stepper.balance.state(), "scheduler": self.scheduler.state_dict(),
                "halved_to": self.stepper.halved_to, "processes": of_each_process(self._engine, processes),
                "finished": self.state.finished, "rows": self.rows, "rows_per_step": self.rows_per_step,
                "batch": batch(self.options),
                "limits": [self.stepper.limits.rows, self.stepper.limits.tokens],
                "buffer": self.rollouts.state() if self.rollouts else {}}
        save = partial(save_checkpoint, self._folder, self.state.step, gather_weights(self.state.weights),
                       gather_optimizer(self.stepper.optimizer), kept, self.options.save_total_limit)
        return processes.first(save)

    def saving_is_due(self) -> bool:
        """Every --save_steps, and where training ends."""
        state, steps = self.state, self.options.save_steps
        every = steps and state.step % steps == 0
        return bool(every or state.step == state.total or state.stop or state.finished)

    def _say_where_lambda_moves(self, kept: dict[str, Any]) -> None:
        """A line where steps are cut differently from before, so that λ comes from different averages."""
        limits, processes = self.stepper.limits, Processes()
        before, was = cut_of(self.rows_per_step, len(kept.get("processes", [])) or 1,
                             *kept.get("limits", [limits.rows, limits.tokens]))
        now, told = cut_of(self.rows_per_step, processes.size, limits.rows, limits.tokens)
        if self.stepper.balances and processes.is_first and now != before:
            console.print(f"λ: {told} from here on, {was} before; in a step of several micro-batches λ "
                          "comes from the averages of the step before (lambda_exact in metrics.jsonl)",
                          markup=False, soft_wrap=True)

    @property
    def _folder(self) -> Path:
        return self.state.run_dir / "checkpoints"

    @property
    def _engine(self) -> RolloutEngine | None:
        return self.rollouts.engine if self.rollouts else None


def cut_of(step_rows: int, processes: int, rows: int, tokens: int) -> tuple[tuple[bool, int], str]:
    """How micro-batches of so many rows and tokens (0: any) cut the steps of a run: equal where steps that
    were whole stay whole; and in words."""
    share = -(-step_rows // processes)
    told = f"{share} rows a process in micro-batches of at most {rows} rows"
    return (share <= rows, tokens), told + (f" and {tokens} tokens" if tokens else "")


def of_each_process(engine: RolloutEngine | None, processes: Processes) -> list[dict[str, Any]]:
    """What a checkpoint keeps of every process; all take part."""
    return processes.collect([{"random": random_state(), **(engine.state() if engine else {})}])


def go_on(kept: Sequence[dict[str, Any]], engine: RolloutEngine | None, processes: Processes,
          seed: list[int]) -> None:
    """Put back what `of_each_process` gave; with a different number of processes, draw anew."""
    if len(kept) != processes.size:
        seed_process(processes, *seed)
        return
    own = kept[processes.rank]
    if engine:
        engine.load(own)
    set_random_state(own["random"])


def seed_process(processes: Processes, *seed: int) -> None:
    """Dropout: every process draws its own, the first one as if it were alone."""
    set_seed(stable_seed(*seed, processes.rank) % 2**32)
