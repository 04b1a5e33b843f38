"""Checks that a model's weights are those of its configuration: all of them, of its shapes, finite."""

import importlib.util
import json
import logging
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from raft_fast.run.errors import UserError, first_line, visible

SHOWN = 3  # weights that an error names
GENERATION = "generation_config.json"
AGAIN = "copy or download the folder again"
OR_CONFIG = f"{AGAIN}, or correct its config.json"


def load_whole(folder: Path, source: str, **how: Any) -> Any:
    """The causal language model in `folder`, by transformers: safetensors only, no remote code. `source`
    names the folder in errors, `how` goes to `from_pretrained`.

    Raises UserError if it cannot be loaded, and if a weight is missing, has the wrong shape, is not finite,
    or belongs to a layer or part that the model would have with another configuration. Weights of something
    else (a value head, multi-token prediction) are named in a warning."""
    from transformers import AutoConfig, AutoModelForCausalLM

    whole = _check_files(source, folder)
    auto: Any = AutoModelForCausalLM  # its types leave the report out
    with load_reports() as reports:
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False,  # what `how` overrides too
                                                gguf_file=how.get("gguf_file"))
            model, found = auto.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, output_loading_info=True,
                ignore_mismatched_sizes=True, **how)  # refused below, with their names
        except Exception as error:  # a folder can be wrong in any way, each with its own exception
            if attention := how.get("attn_implementation"):
                source = f"--attn_implementation {attention} (auto: what the model supports): {source}"
            raise UserError(f"{source}: cannot be loaded: {why(error, reports)}") from error
    rest = found["unexpected_keys"]
    shapes = [f"{name} {list(has)} for {list(asked)}" for name, has, asked in found["mismatched_keys"]]
    if not _quantized(config):  # tools for quantization write biases and scales of their own
        _refuse(source, "weights are whole numbers, and config.json has no quantization_config", whole)
        _refuse(source, "config.json has no place for weights", _misplaced(rest, model),
                "correct it (num_hidden_layers, attention_bias, quantization_config, model_type, ...), or "
                "merge an adapter (peft's merge_and_unload)")
    _refuse(source, "weights are missing", found["missing_keys"])
    _refuse(source, "weights have the wrong shape", shapes)
    _check_finite(source, model)
    if rest:
        warnings.warn(visible(f"{source}: weights that {type(model).__name__} does not have are left out: "
                              f"{_few(rest)}"), stacklevel=2)
    return model


def check_written(folder: Path) -> None:
    """Raises UserError if the model just written to `folder` would fail in `load_whole`. With accelerate,
    which can load a model without memory for it, only names and shapes are read."""
    load_whole(folder, f"{folder} (just written)", **(
        {"device_map": "meta"} if importlib.util.find_spec("accelerate") else {}))


def check_encoder(source: str, encoder: torch.nn.Module, reports: list[str]) -> None:
    """The same for a model that sentence-transformers loaded under `load_reports`. A pooler may be missing:
    BERT has one, but most encoders neither use nor store it."""
    _refuse(source, "weights are missing",
            [name for name in _listed(reports, "MISSING") if not name.startswith("pooler.")])
    _check_finite(source, encoder)


def _check_files(source: str, folder: Path) -> list[str]:
    """The weights stored as whole numbers, which transformers takes as they are. Raises UserError for a file
    that cannot be read, generation_config.json too, which transformers would silently do without."""
    whole: list[str] = []
    for file in (*folder.glob("*.safetensors"), *folder.glob("*.index.json"), *folder.glob(GENERATION)):
        try:
            if file.suffix == ".json":
                dict(**json.loads(file.read_bytes()))  # anything but an object has no keys
                continue
            with safe_open(file, "pt") as stored:
                whole += [name for name in stored.keys() if name.endswith(".weight")  # noqa: SIM118
                          and stored.get_slice(name).get_dtype().startswith(("I", "U", "BOOL"))]
        except Exception as error:  # safetensors has its own
            raise UserError(f"{source}: {file.name} cannot be read ({first_line(error)}); {AGAIN}") from error
    return whole


def _quantized(config: Any) -> bool:
    """Whether a configuration names a quantization of the stored weights that transformers knows."""
    from transformers.quantizers import AutoHfQuantizer

    given = [getattr(one, "quantization_config", None) for one in (config, config.get_text_config())]
    return any(one and AutoHfQuantizer.supports_quant_method(one) for one in given)


def _misplaced(unexpected: Sequence[str], model: Any) -> list[str]:
    """Names of weights without which the model computes something else: of a further layer, of a module that
    it has (q_proj.bias), or beside these in a layer (q_norm.weight, an adapter that was not merged). Those of
    a head, a tower or a mask that attention keeps as `bias` are not; nor is multi-token prediction, which
    transformers knows by its names."""
    prefix = f"{model.base_model_prefix}."  # not every folder has it
    modules = {name.removeprefix(prefix): module for name, module in model.named_modules()}
    stacks = tuple(f"{name}." for name, one in modules.items() if isinstance(one, torch.nn.ModuleList))

    def belongs(name: str) -> bool:
        home, _, leaf = name.removeprefix(prefix).rpartition(".")
        if home in modules:
            return any(True for _ in modules[home].parameters(recurse=False))
        return leaf in ("weight", "bias") and home.startswith(stacks)

    return list(filter(belongs, unexpected))


def _check_finite(source: str, model: torch.nn.Module) -> None:
    _refuse(source, "weights hold NaN or Inf",
            [name for name, tensor in model.state_dict().items() if not _finite(tensor)], AGAIN)


def _finite(tensor: Any) -> bool:
    """In one pass, without a copy; numbers of eight bits or fewer and quantized weights are not looked at."""
    return (not isinstance(tensor, torch.Tensor) or is_traceable_wrapper_subclass(tensor)
            or not tensor.is_floating_point() or tensor.itemsize == 1 or not tensor.numel() or tensor.is_meta
            or bool(torch.stack(tensor.aminmax()).isfinite().all()))


def _refuse(source: str, what: str, names: Iterable[str], instead: str = OR_CONFIG) -> None:
    if names := list(names):
        raise UserError(f"{source}: {what}: {_few(names)}; {instead}")


def _few(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return f"{', '.join(ordered[:SHOWN])}{', ...' if len(ordered) > SHOWN else ''} ({len(ordered)} in all)"


def why(error: Exception, reports: list[str]) -> str:
    """The cause of an error of transformers: weights that do not fit, else its words."""
    if names := _listed(reports, "CONVERSION") or _listed(reports, "MISMATCH"):
        return f"weights have the wrong shape or number: {_few(names)}; {OR_CONFIG}"
    return textwrap.shorten(f"{type(error).__name__}: {error}", 400, placeholder=" ...")


def _listed(reports: list[str], kind: str) -> list[str]:
    """The weights of a kind ("MISSING", ...) in transformers' tables."""
    return [line.split("|")[0].strip() for report in reports for line in report.splitlines()
            if kind in line.partition("|")[2]]


@contextmanager
def load_reports() -> Iterator[list[str]]:
    """Collects transformers' tables of differences, instead of printing these and bars of progress."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    kept: list[str] = []
    logger = logging.getLogger("transformers.modeling_utils")

    def keep(record: logging.LogRecord) -> bool:
        if is_report := "LOAD REPORT" in (text := record.getMessage()):
            kept.append(text)
        return not is_report

    level = logger.level
    logger.setLevel(logging.WARNING - 1)  # at which it reports, but no plan of shards
    logger.addFilter(keep)
    try:
        yield kept
    finally:
        logger.removeFilter(keep)
        logger.setLevel(level)
