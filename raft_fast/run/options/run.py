"""The options of a command, all groups together."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from raft_fast.run.options.adapter import AdapterOptions
from raft_fast.run.options.data import DataOptions
from raft_fast.run.options.engines import EngineOptions
from raft_fast.run.options.evaluate import EvaluateOptions
from raft_fast.run.options.model import ModelOptions
from raft_fast.run.options.refine import RefineOptions
from raft_fast.run.options.screen import ScreenOptions
from raft_fast.run.options.train import TrainOptions
from raft_fast.run.options.watch import WatchOptions


def flat(groups: Iterable[Any]) -> dict[str, Any]:
    """Every option of the groups by its name."""
    return {name: value for group in groups for name, value in vars(group).items()}


@dataclass(frozen=True)
class Groups:
    """What a command's options are made of: each field is a group."""

    @property
    def groups(self) -> list[Any]:
        return list(vars(self).values())

    def flat(self) -> dict[str, Any]:
        """Every option by its name."""
        return flat(self.groups)


@dataclass(frozen=True)
class Options(Groups):
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
