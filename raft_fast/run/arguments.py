"""Every option of a run as keywords of Python, beside those of transformers that have one value here."""

import dataclasses
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raft_fast.run.config import nearest, taken
from raft_fast.run.errors import UserError
from raft_fast.run.options import (
    AdapterOptions,
    DataOptions,
    EngineOptions,
    EvaluateOptions,
    ModelOptions,
    Options,
    RefineOptions,
    ScreenOptions,
    TrainOptions,
    WatchOptions,
    check_needs,
)

GROUPS: list[Any] = [one.type for one in dataclasses.fields(Options)]
# arguments of transformers that have one value here: it is taken, and can be read by a TrainerCallback
FIXED = {"logging_steps": 1, "logging_strategy": "steps", "save_strategy": "steps", "optim": "adamw_torch",
         "bf16": False, "fp16": False, "remove_unused_columns": False, "do_train": True,
         "metric_for_best_model": "eval_domain_nll", "greater_is_better": False,
         "resume_from_checkpoint": None}
# what to use for others, of TRL too
PRECISION = "weights train in float32, or in the precision of the model that you pass"
INSTEAD = {"bf16": PRECISION, "fp16": PRECISION, "logging_steps": "every step is logged",
           "optim": "AdamW is the only optimizer", "warmup_ratio": "use warmup_steps",
           "eval_strategy": "use eval_steps (0: none)", "per_device_eval_batch_size": "use eval_batch_size",
           "max_seq_length": "use max_length", "max_new_tokens": "use max_completion_length",
           "temperature": "use rollout_temperature and distillation_temperature",
           "teacher_model_name_or_path": "use teacher", "use_vllm": "use rollout_engine='vllm'",
           "vllm_mode": "use rollout_engine='vllm' or 'vllm_server'",
           "resume_from_checkpoint": "pass it to train()"}


@dataclasses.dataclass
class _Fields(EvaluateOptions, WatchOptions, AdapterOptions, TrainOptions, RefineOptions, ScreenOptions,
              EngineOptions, ModelOptions, DataOptions):
    """The fields of all groups."""

    def __post_init__(self) -> None:
        self.options()

    def options(self) -> Options:
        """The options by group. Raises UserError for values that are refused."""
        return Options(*(group(**{one.name: getattr(self, one.name) for one in dataclasses.fields(group)})
                         for group in GROUPS))


FIELDS = {one.name: one for one in dataclasses.fields(_Fields)}
SIGNATURE = inspect.signature(_Fields)


def read(name: str, value: Any) -> Any:
    """The value of an option as the command line would read it. Raises UserError where it takes none such."""
    return taken(FIELDS[name], os.fspath(value) if isinstance(value, os.PathLike) else value)


class Arguments(_Fields):
    """The options of a run; `defaults` hold where nothing is given."""

    name: str  # of the recipe, or of the command line's configuration
    given: dict[str, Any] | None  # what Python was given; None: the command line's

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.given = dict(given)
        fixed = {**FIXED, "eval_strategy": "steps" if given.get("eval_steps") else "no"}
        for name, value in given.items():
            if name not in FIELDS and (name not in fixed or value != fixed[name]):
                told = INSTEAD.get(name, f"unknown option{nearest(name, FIELDS)}")
                raise UserError(f"RAFTConfig({name}={value!r}): {told}")
        options = {name: value for name, value in given.items() if name in FIELDS}
        super().__init__(**{name: read(name, value) for name, value in {**defaults, **options}.items()})
        check_needs([name for name, value in options.items() if value != FIELDS[name].default],
                    self.options().groups)

    def __getattr__(self, name: str) -> Any:
        if name in FIXED:
            return FIXED[name]
        if name == "eval_strategy":
            return "steps" if self.eval_steps else "no"
        raise AttributeError(f"{type(self).__name__} has no {name}")

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.output_dir or f"runs/{self.name}")
