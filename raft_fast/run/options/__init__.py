"""Every option of the program, grouped by stage; flat on the command line and in YAML.

Names are those of transformers and TRL where the same thing exists. An option is one field with its
docstring (`option.option`): --help, ranges, what a run pins, what is ignored without another option, and
docs/OPTIONS.md follow from it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from raft_fast.run.options.data import MEMORY, MINILM, SMOLLM2, DataOptions, ModelOptions, ScreenOptions
from raft_fast.run.options.evaluation import (
    BaseOptions,
    EvaluateOptions,
    JuryOptions,
    LMEvalOptions,
    ParaphraseOptions,
)
from raft_fast.run.options.option import Group, check, check_needs, named, pinned_by
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
           "DataOptions", "EngineOptions", "EvaluateOptions", "Group", "Groups", "JuryOptions",
           "LMEvalOptions", "ModelOptions", "Options", "ParaphraseOptions", "RefineOptions",
           "RefineRunOptions", "ScreenOptions", "ShowOptions", "TrainOptions", "WatchOptions", "check",
           "check_given", "check_needs", "check_rollouts", "check_several", "flat", "named", "pinned_by"]


def flat(groups: Iterable[Any]) -> dict[str, Any]:
    """Every option of the groups by its name."""
    return {name: value for group in groups for name, value in vars(group).items()}


@dataclass(frozen=True)
class Groups:
    """The options of a command: each field is a group."""

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


def check_given(argv: Sequence[str], options: Groups) -> None:
    """Raises UserError for an option among the words `argv` that would be ignored (`check_needs`)."""
    check_needs([word.split("=")[0].removeprefix("--") for word in argv if word.startswith("--")],
                options.groups)


def check_several(processes: int, model: ModelOptions, train: TrainOptions, adapter: AdapterOptions,
                  watch: WatchOptions) -> None:
    """Raises UserError for options that are not supported with this number of processes."""
    if processes == 1:
        return
    check(":" not in model.device, "--device", model.device,
          f"auto or cuda for {processes} processes: each takes the GPU of its local rank")
    if train.parallelism == "fsdp2":
        check(not adapter.use_peft, "--parallelism fsdp2 --use_peft", True,
              "--parallelism ddp: adapters are small, and FSDP2 trains whole models")
        check(not watch.eval_steps, "--parallelism fsdp2 --eval_steps", watch.eval_steps,
              "0, or --parallelism ddp: the first process evaluates alone and needs whole weights")


def check_rollouts(processes: int, on_gpu: bool, train: TrainOptions) -> None:
    """Raises UserError for a --rollout_engine that this device or number of processes does not support."""
    name = train.rollout_engine
    check(on_gpu or name == "transformers" or not train.distillation, "--rollout_engine", name,
          "transformers on a CPU: the others need a GPU")
    check(processes == 1 or name != "vllm", "--rollout_engine", name,
          f"vllm_server or continuous for {processes} processes: it shares the GPU of one")
