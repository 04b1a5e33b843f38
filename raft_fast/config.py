"""Every option of the program: flat on the command line and in YAML, grouped by stage in code.

Names are those of transformers and TRL where the same thing exists. YAML is the default, the
command line wins, an unknown key fails. Shipped configurations live in `configs/`.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import jsonargparse
import yaml

from raft_fast.errors import UserError

Group = TypeVar("Group")
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass
class DataOptions:
    """Rows"""

    data: str | None = None
    """Your rows: a .jsonl, .parquet or .csv file or a `datasets` name, with the columns
    question/answer, prompt/completion or messages, and category where there is one."""
    max_rows: int = 0
    """Use at most this many rows (of the training rows, where there are some), spread evenly over
    the categories; 0 takes all."""
    max_bad_rows: float = 0.1
    """Go on while at most this share of the rows is bad; they are set aside in rejected.jsonl."""
    seed: int = 0
    """Seed of everything that is drawn."""
    output_dir: str | None = None
    """Where everything is written. Default: runs/<config> (train), refined/<data> (refine),
    evaluations/<run> (evaluate)."""

    def __post_init__(self) -> None:
        _check(self.max_rows >= 0, "--max_rows", self.max_rows, "0 (all) or more")
        _check(0 <= self.max_bad_rows <= 1, "--max_bad_rows", self.max_bad_rows, "a share in [0, 1]")


@dataclass
class ModelOptions:
    """Model"""

    model: str = SMOLLM2
    """The instruct model: a folder or a hub name. train and refine: student, teacher and rewriter;
    evaluate: the trained model, RUN/model."""
    encoder: str = MINILM
    """Sentence encoder of the semantic filter and of evaluation: a folder or a
    sentence-transformers name."""
    revision: str | None = None
    """Revision of the model on the hub."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""
    attn_implementation: str = "sdpa"
    """sdpa, flash_attention_2 (needs flash-attn) or eager."""


@dataclass
class RefineOptions:
    """Stage 1: refinement (Eqs. 1-4)"""

    rewriter: str = "self"
    """Who rewrites: self (the model), a folder or hub name, or MODEL@URL of an OpenAI-compatible
    server (URL alone takes the first model it serves; the key is read from OPENAI_API_KEY)."""
    fuser: str = "self"
    """Who merges gold and rewrite into the fused answer: as --rewriter."""
    judge: str = "self"
    """Who scores fusions; several judges separated by commas: as --rewriter."""
    tau: float = 0.8
    """Keep a rewrite whose cosine similarity to the gold answer is at least this (Eq. 3)."""
    fused_tau: float = 0.0
    """As tau, for fused answers; below it the row keeps what it had. 0: judges alone decide."""
    fusion_rounds: int = 3
    """Fusions drawn and judged for a row at most; the best mean score wins. 0: no fusion."""
    judge_stop: float = 0.8
    """No further round for a row once the mean score reaches this."""
    rewrite_max_new_tokens: int = 256
    """Longest rewrite or fusion, in tokens; one that is cut off is not used."""
    rewrite_temperature: float = 0.7
    """Sampling temperature of rewrites and fusions; 0 is greedy."""
    refine_batch_size: int = 32
    """Conversations generated at once in-process, or requests in flight to a server."""

    def __post_init__(self) -> None:
        for name in ("tau", "fused_tau", "judge_stop"):
            _check(-1 <= getattr(self, name) <= 1, f"--{name}", getattr(self, name), "in [-1, 1]")
        for name in ("rewrite_max_new_tokens", "refine_batch_size"):
            _check(getattr(self, name) >= 1, f"--{name}", getattr(self, name), "at least 1")
        _check(self.fusion_rounds >= 0, "--fusion_rounds", self.fusion_rounds, "at least 0")
        _check(self.rewrite_temperature >= 0, "--rewrite_temperature", self.rewrite_temperature,
               "at least 0")


@dataclass
class TrainOptions:
    """Stage 2: training (Eqs. 5-12)"""

    heldout: float = 0.1
    """Share of the rows held out for evaluation, taken from every category before anything else."""
    data_source: Literal["fused", "rewrite", "gold"] = "fused"
    """Which answer to train on: the refined one, the filtered rewrite, or the gold answer."""
    sft: bool = True
    """Train on the answers by cross-entropy."""
    distillation: bool = True
    """Distil the frozen teacher on the student's own trajectories."""
    teacher: str = "self"
    """Frozen teacher: self (the model before training), or a folder or hub name of a model with the
    same tokenizer."""
    teacher_sees_answer: bool = True
    """Show the teacher the training answer (Eq. 7); off, it sees what the student sees."""
    learning_rate: float = 5e-6
    """Peak learning rate of AdamW."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """Schedule of the learning rate after warm-up."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    max_grad_norm: float = 1.0
    """Clip the gradient's norm to this."""
    num_train_epochs: int = 3
    """Passes over the rows."""
    max_steps: int = -1
    """Optimizer steps at most; -1: as the epochs ask."""
    per_device_train_batch_size: int = 16
    """Rows of a micro-batch; each gives one SFT sequence and one trajectory."""
    gradient_accumulation_steps: int = 1
    """Micro-batches of an optimizer step."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    steps_per_generation: int = 1
    """Optimizer steps fed by one round of rollouts; 1 is strictly on-policy."""
    max_completion_length: int = 256
    """Longest trajectory the student samples, in tokens."""
    max_length: int = 2048
    """Longest training sequence, prompt included; longer rows are set aside with their row_id."""
    rollout_temperature: float = 1.0
    """Sampling temperature of trajectories (the paper samples from the student itself: 1)."""
    distillation_temperature: float = 1.5
    """Both distributions are softened by this before they are compared (T of Eqs. 8-10)."""
    teacher_top_k: int = 512
    """How many of the teacher's most likely tokens are compared (K of Eq. 9)."""
    balance: Literal["ema", "gradient", "fixed"] = "ema"
    """lambda: moving averages of the two losses (Eqs. 11-12), of their gradient norms at the hidden
    states, or fixed."""
    ema_beta: float = 0.9
    """How slowly the moving averages follow the losses (beta of Eq. 11)."""
    fixed_lambda: float = 1.0
    """lambda where --balance is fixed."""
    lambda_max: float = 100.0
    """lambda never exceeds this."""
    save_steps: int = 100
    """Steps between checkpoints; one is always written at the end. 0: only then."""
    save_total_limit: int = 2
    """Newest checkpoints kept."""

    def __post_init__(self) -> None:
        _check(0 < self.heldout < 1, "--heldout", self.heldout, "between 0 and 1")
        _check(self.sft or self.distillation, "--sft false --distillation", False,
               "true: with both off there is nothing to train")
        for name in ("learning_rate", "rollout_temperature", "distillation_temperature",
                     "max_grad_norm", "lambda_max"):
            _check(getattr(self, name) > 0, f"--{name}", getattr(self, name), "above 0")
        for name in ("num_train_epochs", "per_device_train_batch_size", "steps_per_generation",
                     "gradient_accumulation_steps", "max_completion_length", "max_length",
                     "save_total_limit"):
            _check(getattr(self, name) >= 1, f"--{name}", getattr(self, name), "at least 1")
        _check(0 <= self.ema_beta < 1, "--ema_beta", self.ema_beta, "in [0, 1)")
        for name in ("save_steps", "warmup_steps", "weight_decay"):
            _check(getattr(self, name) >= 0, f"--{name}", getattr(self, name), "at least 0")
        _check(0 <= self.fixed_lambda <= self.lambda_max, "--fixed_lambda", self.fixed_lambda,
               f"between 0 and --lambda_max {self.lambda_max}")
        _check(self.teacher_top_k >= 2, "--teacher_top_k", self.teacher_top_k,
               "at least 2 (renormalised KL at K = 1 is always zero)")
        _check(self.max_steps == -1 or self.max_steps >= 1, "--max_steps", self.max_steps,
               "-1 or at least 1")


@dataclass
class EvaluateOptions:
    """Evaluation"""

    eval_rows: int = 0
    """Held-out rows to evaluate on at most, spread over the categories; 0 takes all."""
    eval_max_new_tokens: int = 256
    """Longest answer to a held-out question, in tokens."""
    general_prompts: int = 0
    """IFBench prompts at most (a fixed slice); 0 takes all that can be verified offline,
    -1 none."""
    general_max_new_tokens: int = 512
    """Longest answer to an IFBench prompt, in tokens."""
    eval_batch_size: int = 32
    """Conversations generated at once."""

    def __post_init__(self) -> None:
        for name in ("eval_max_new_tokens", "general_max_new_tokens", "eval_batch_size"):
            _check(getattr(self, name) >= 1, f"--{name}", getattr(self, name), "at least 1")
        _check(self.eval_rows >= 0, "--eval_rows", self.eval_rows, "0 (all) or more")
        _check(self.general_prompts >= -1, "--general_prompts", self.general_prompts,
               "-1 (none), 0 (all) or more")


@dataclass
class BaseOptions:
    """Comparison"""

    base: str | None = None
    """The model before training: a folder or a hub name. Default: the model that the run was trained
    from, as its config.yaml says."""


def _check(holds: bool, option: str, value: Any, must: str) -> None:
    if not holds:
        raise UserError(f"{option} {value}: must be {must}")


class _Parser(jsonargparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest option where a name is unknown."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        if "unrecognized arguments: " in message:
            wrong = message.split("unrecognized arguments: ")[1].split()[0].split("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            message = f"unknown option {wrong}{_nearest(wrong, known)}"
        elif told := re.search(r'key "(\w+)":\s*(.*?)\.? Got value: (.*)', message, re.DOTALL):
            name, must, value = told.groups()
            raise UserError(f"--{name} {value.strip()}: must be {_in_words(must)}")
        raise UserError(f"{message} (see python -m {self.prog} --help)")


def _in_words(expected: str) -> str:
    """What the parser expected, without its type notation."""
    if choices := re.search(r"Literal\[(.*?)\]", expected):
        return "one of " + choices[1].replace("'", "")
    kinds = {"int": "a whole number", "float": "a number", "bool": "true or false"}
    return next((text for kind, text in kinds.items() if f"'{kind}'" in expected), expected)


def _nearest(wrong: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def parse(
    program: str, description: str, groups: list[type], argv: list[str] | None = None,
    default: str = "raft",
) -> tuple[str, list[Any]]:
    """Read the command line and the YAML file it names.

    Returns the configuration's name and one instance for each of `groups`. `default` names the
    shipped configuration used where the command line has no --config.
    """
    parser = _Parser(prog=f"raft_fast.{program}", description=description,
                     usage=f"python -m raft_fast.{program} [--config FILE] [--option value ...]",
                     allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", default=default, help=(
        f"YAML file, or the name of a shipped one: {', '.join(shipped())}. Without --data the quickstart "
        "is used, with it raft"))
    for group in groups:
        parser.add_class_arguments(group)
    arguments = parser.parse_args(argv)
    name, path = _find_config(arguments.config)
    known = {field.name for group in groups for field in dataclasses.fields(group)}
    _load_defaults(parser, path, known)
    arguments = parser.parse_args(argv)
    return name, [_build(group, arguments) for group in groups]


def shipped() -> list[str]:
    """Names of the configurations in `configs/`."""
    return sorted(file.name.removesuffix(".yaml") for file in _shipped_folder().iterdir()
                  if file.name.endswith(".yaml"))


def to_yaml(options: list[Any], path: Path) -> None:
    """Write option groups as one flat YAML file that `--config` reads back."""
    flat = {key: value for group in options for key, value in dataclasses.asdict(group).items()}
    path.write_text(yaml.safe_dump(flat, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _shipped_folder() -> Any:
    return resources.files("raft_fast_configs")


def _find_config(config: str) -> tuple[str, Path]:
    if config in shipped():
        return config, Path(str(_shipped_folder() / f"{config}.yaml"))
    path = Path(config)
    if not path.is_file():
        raise UserError(f"--config {config}: no such file, and not one of {', '.join(shipped())}")
    return path.stem, path


def _load_defaults(parser: jsonargparse.ArgumentParser, path: Path, known: set[str]) -> None:
    """Make the file's values the parser's defaults. Keys of other entries are ignored, unknown ones fail."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold `key: value` lines")
    every = {field.name for group in ALL_GROUPS for field in dataclasses.fields(group)}
    for key in values:
        if key not in every:
            raise UserError(f"{path}: unknown key {key!r}{_nearest(str(key), every)}")
    mine = {key: value for key, value in values.items() if key in known}
    try:
        checked = parser.parse_object(mine)
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('--')}") from error
    parser.set_defaults({key: checked[key] for key in mine})


def _build(group: type[Group], arguments: jsonargparse.Namespace) -> Group:
    return group(**{field.name: arguments[field.name] for field in dataclasses.fields(group)})  # type: ignore[arg-type]


ALL_GROUPS: list[type] = [DataOptions, ModelOptions, RefineOptions, TrainOptions, EvaluateOptions,
                          BaseOptions]
jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
