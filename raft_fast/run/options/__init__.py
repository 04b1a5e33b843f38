"""Every option of the program, grouped by stage; flat on the command line and in YAML.

Names are those of transformers and TRL where the same thing exists. An option is one field with its
docstring (`option.option`): --help, ranges, what a run pins, what is ignored without another option, and
docs/OPTIONS.md follow from it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from raft_fast.run.options.data import MEMORY, MINILM, SMOLLM2, DataOptions, ModelOptions, ScreenOptions
from raft_fast.run.options.evaluation import (
    BaseOptions,
    EvaluateOptions,
    JuryOptions,
    LMEvalOptions,
    ParaphraseOptions,
)
from raft_fast.run.options.option import Group, check, check_needs, docs, named, pinned_by
from raft_fast.run.options.stage1 import (
    CardOptions,
    EngineOptions,
    RefineOptions,
    RefineRunOptions,
    ShowOptions,
)
from raft_fast.run.options.stage2 import AdapterOptions, TrainOptions, WatchOptions

ALL_GROUPS: list[type[Group]] = [
    DataOptions, ModelOptions, EngineOptions, ScreenOptions, RefineOptions, RefineRunOptions, TrainOptions,
    AdapterOptions, WatchOptions, EvaluateOptions, BaseOptions, ShowOptions, CardOptions, ParaphraseOptions,
    JuryOptions, LMEvalOptions]

__all__ = ["ALL_GROUPS", "MEMORY", "MINILM", "SMOLLM2", "AdapterOptions", "BaseOptions", "CardOptions",
           "ComparisonOptions", "DataOptions", "EngineOptions", "EvaluateOptions", "Group", "Groups",
           "JuryOptions", "LMEvalOptions", "ModelOptions", "Options", "ParaphraseOptions", "RefineOptions",
           "RefineRunOptions", "ScreenOptions", "ShowOptions", "Stage1Options", "TrainOptions",
           "WatchOptions", "check", "check_given", "check_needs", "docs", "flat", "named", "pinned_by"]


def flat(groups: Iterable[Any]) -> dict[str, Any]:
    """Every option of the groups by its name."""
    return {name: value for group in groups for name, value in vars(group).items()}


@dataclass(frozen=True)
class Groups:
    """The options of a command: each field is a group."""

    @classmethod
    def kinds(cls) -> list[Any]:
        """The types of the groups, in order."""
        return [one.type for one in fields(cls)]

    @property
    def groups(self) -> list[Any]:
        return list(vars(self).values())

    def flat(self) -> dict[str, Any]:
        """Every option by its name."""
        return flat(self.groups)


@dataclass(frozen=True)
class Options(Groups):
    """The options of a run, by stage."""

    data: DataOptions
    model: ModelOptions
    engines: EngineOptions
    screen: ScreenOptions
    refine: RefineOptions
    train: TrainOptions
    adapter: AdapterOptions
    watch: WatchOptions
    evaluate: EvaluateOptions


@dataclass(frozen=True)
class Stage1Options(Groups):
    """The options of stage 1 alone, as a command, that are written into its config.yaml."""

    data: DataOptions
    model: ModelOptions
    engines: EngineOptions
    screen: ScreenOptions
    refine: RefineOptions
    how: RefineRunOptions
    card: CardOptions


@dataclass(frozen=True)
class ComparisonOptions(Groups):
    """The options of an evaluation outside of a run."""

    data: DataOptions
    model: ModelOptions
    engines: EngineOptions
    base: BaseOptions
    evaluate: EvaluateOptions
    jury: JuryOptions
    lm_eval: LMEvalOptions


def check_given(argv: Sequence[str], options: Groups) -> None:
    """Raises UserError for an option among the words `argv` that would be ignored (`check_needs`)."""
    check_needs([word.split("=")[0].removeprefix("--") for word in argv if word.startswith("--")],
                options.groups)
