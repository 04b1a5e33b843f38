"""Every option of a run."""

from dataclasses import dataclass
from typing import Any

from raft_fast.options.adapter import AdapterOptions
from raft_fast.options.data import DataOptions
from raft_fast.options.engines import EngineOptions
from raft_fast.options.evaluate import EvaluateOptions
from raft_fast.options.model import ModelOptions
from raft_fast.options.refine import RefineOptions
from raft_fast.options.screen import ScreenOptions
from raft_fast.options.train import TrainOptions
from raft_fast.options.watch import WatchOptions


@dataclass(frozen=True)
class Options:
    """Every option of a run, by stage."""

    data: DataOptions
    model: ModelOptions
    engines: EngineOptions
    screen: ScreenOptions
    refine: RefineOptions
    train: TrainOptions
    adapter: AdapterOptions
    watch: WatchOptions
    evaluate: EvaluateOptions

    def flat(self) -> dict[str, Any]:
        """Every option by its name."""
        return {name: value for group in vars(self).values() for name, value in vars(group).items()}
