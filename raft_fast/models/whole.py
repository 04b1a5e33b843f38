"""Checks that a model's weights are those of its configuration: all of them, of its shapes, finite."""

import functools
import importlib.util
import json
import logging
import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from raft_fast.run.errors import UserError, first_line
from raft_fast.run.progress import console
from raft_fast.run.terminal import visible

SHOWN = 3  # weights that an error names
NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
LAYER = re.compile(r".*?\.\d+\.")
UNMERGED = re.compile(r"\.(base_layer|lora_\w+)\.")
QUANTIZED = re.compile(r"\.weight[._:]|\.SCB$")  # scales and the like, beside a weight of few bits
WHOLE_NUMBERS = ("I", "U", "BOOL")  # how safetensors' names of such types begin
GENERATION = "generation_config.json"
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json")
INDEX = "model.safetensors.index.json"
AGAIN = "copy or download the folder again"
ADD_QUANTIZATION = "add its quantization_config, or name the model that is not quantized"
OR_CONFIG = f"{AGAIN}, or correct its config.json"


def load_whole(folder: Path, source: str, **how: Any) -> Any:
    """The causal language model in `folder`, by transformers: safetensors only, no remote code. `source`
    names the folder in errors, `how` goes to `from_pretrained`.

    Raises UserError if it cannot be loaded, and if a weight is missing, has the wrong shape, is not finite,
    or belongs to a layer or part that the model would have with another configuration. Weights of something
    else (a value head, multi-token prediction) are listed in one line on the terminal.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{source}: holds an adapter (adapter_config.json); merge it into its base model "
                        "(peft's merge_and_unload) and name the folder of what is saved, or name the base")
    if damage := _no_object(folder, [GENERATION]):  # transformers silently takes config.json's values
        raise UserError(f"{source}: {damage}; {AGAIN}")
    auto: Any = AutoModelForCausalLM  # its types leave the report out
    with load_reports() as reports:
        try:
            # by itself: what `how` overrides is not checked below (an unknown dtype)
            stored = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            model, found = auto.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, output_loading_info=True,
                ignore_mismatched_sizes=True, **how)  # refused below, with their names
        except Exception as error:  # a folder can be wrong in any way, each with its own exception
            attention, words = how.get("attn_implementation"), str(error).replace(str(folder), "")
            if attention and (isinstance(error, ImportError) or re.search("attention|attn", words, re.I)):
                reason = words.split(". ")[0].strip(".")
                raise UserError(f"--attn_implementation {attention}: {reason}; leave it out to use what the "
                                "model supports") from error
            raise UserError(f"{source}: cannot be loaded: {why(error, folder, reports)}") from error
    quantized = _quantized(stored)
    _check_names(source, found, model, quantized)
    if not quantized:
        _check_fractions(source, folder, model, found["unexpected_keys"])
    _check_finite(source, model)
    return model


def check_written(folder: Path) -> None:
    """Raises UserError if the model just written to `folder` would fail in `load_whole`. With accelerate,
    which can load a model without memory for it, only names and shapes are read."""
    load_whole(folder, f"{folder} (just written)", **(
        {"device_map": "meta"} if importlib.util.find_spec("accelerate") else {}))


def check_encoder(source: str, folder: Path, encoder: torch.nn.Module, reports: list[str]) -> None:
    """The same for a model that sentence-transformers loaded under `load_reports`. A pooler may be missing:
    BERT has one, but most encoders neither use nor store it."""
    from transformers import PreTrainedModel

    _refuse(source, [name for name in _listed(reports, "MISSING") if not name.startswith("pooler.")],
            "weights are missing", OR_CONFIG)
    if not any(isinstance(part, PreTrainedModel) and _quantized(part.config) for part in encoder.modules()):
        _check_fractions(source, folder, encoder, [])
    _check_finite(source, encoder)


def _quantized(config: Any) -> bool:
    """Whether a configuration names a quantization of the stored weights that transformers knows."""
    from transformers.quantizers import AutoHfQuantizer

    given = [getattr(one, "quantization_config", None) for one in (config, config.get_text_config())]
    return any(one and AutoHfQuantizer.supports_quant_method(one) for one in given)


def _check_fractions(source: str, folder: Path, model: Any, unexpected: Iterable[str]) -> None:
    """Raises UserError for weights stored as whole numbers, which transformers takes as they are; masks and
    positions may be."""
    own, wrong = model.state_dict(), []
    for file in _files(folder):
        with safe_open(folder / file, "pt") as tensors:
            wrong += [name for name in set(tensors.keys()).difference(unexpected)
                      if (name.endswith(".weight") or (name in own and own[name].is_floating_point()))
                      and tensors.get_slice(name).get_dtype().startswith(WHOLE_NUMBERS)]
    _refuse(source, wrong, "weights are whole numbers, config.json does not say how they are quantized",
            ADD_QUANTIZATION)


def _check_names(source: str, found: dict[str, Any], model: Any, quantized: bool) -> None:
    """Raises UserError for names and shapes that transformers `found` wrong."""
    own, rest = set(model.state_dict()), found["unexpected_keys"]
    shapes = [f"{name} {list(has)} for {list(asked)}" for name, has, asked in found["mismatched_keys"]]
    plain = [] if quantized else rest  # tools for quantization write biases that are zero and never read
    for names, what, instead in (
        (filter(UNMERGED.search, rest), "weights are of an adapter that was not merged",
         "merge it (peft's merge_and_unload) and save the model again"),
        (found["missing_keys"], "weights are missing", OR_CONFIG),
        (shapes, "weights have the wrong shape", OR_CONFIG),
        (filter(QUANTIZED.search, plain), "weights are quantized, config.json does not say how",
         ADD_QUANTIZATION),
        (_surplus(rest, own), "weights are of layers that config.json does not have",
         "correct its num_hidden_layers"),
        (_parts(plain, model), "weights are of parts that config.json does not have",
         "correct its model_type, or what it says of biases and norms (attention_bias, ...)")):
        _refuse(source, names, what, instead)
    if rest:
        _say(f"{source}: weights that {type(model).__name__} does not have are left out: {_few(rest)}")


def _surplus(unexpected: Iterable[str], own: set[str]) -> list[str]:
    """Names that differ from the model's own only in numbers: of layers that the configuration leaves out. A
    layer with parts that no other has (multi-token prediction) is something else."""
    kinds, layers = {NUMBER.sub("*", name) for name in own}, {_layer(name) for name in own}
    alike = [name for name in unexpected if NUMBER.sub("*", name) in kinds]
    strange = {_layer(name) for name in unexpected if NUMBER.sub("*", name) not in kinds} - layers
    return [name for name in alike if _layer(name) not in strange]


def _parts(unexpected: Iterable[str], model: Any) -> list[str]:
    """Weights and biases of a layer that the model has (q_proj.bias), or beside such a layer inside one of
    its numbered blocks (q_norm.weight): the model computes something else without them. Names without a place
    there belong to something else (a head, a tower, a mask that attention keeps as `bias`)."""
    modules = dict(model.named_modules())

    def belongs(name: str) -> bool:
        parts = name.split(".")
        home, inside = next((modules[".".join(parts[:end])], parts[end:])
                            for end in range(len(parts) - 1, -1, -1) if ".".join(parts[:end]) in modules)
        if len(inside) == 1:
            return any(True for _ in home.parameters(recurse=False))
        return bool(LAYER.match(name[: -len(".".join(inside))]))

    return [name for name in unexpected if name.endswith(("weight", "bias"))
            and (belongs(name) or belongs(f"{model.base_model_prefix}.{name}"))]


def _layer(name: str) -> str:
    return match[0] if (match := LAYER.match(name)) else ""


def _check_finite(source: str, model: torch.nn.Module) -> None:
    _refuse(source, [name for name, tensor in model.state_dict().items() if not _finite(tensor)],
            "weights hold NaN or Inf", AGAIN)


def _finite(tensor: Any) -> bool:
    """In one pass, without a copy; for quantized weights the scales, not numbers of eight bits or fewer."""
    if is_traceable_wrapper_subclass(tensor):
        return all(_finite(getattr(tensor, part)) for part in tensor.__tensor_flatten__()[0])
    if not (isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.itemsize > 1
            and tensor.numel() and not tensor.is_meta):
        return True
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def _refuse(source: str, names: Iterable[str], what: str, instead: str) -> None:
    if names := list(names):
        raise UserError(f"{source}: {what}: {_few(names)}; {instead}")


def _few(names: Iterable[str]) -> str:
    """The first few, in the order of their numbers, and how many there are."""
    ordered = sorted(names, key=lambda name: [(len(part) if part.isdigit() else 0, part)
                                              for part in name.split(".")])
    return f"{', '.join(ordered[:SHOWN])}{', ...' if len(ordered) > SHOWN else ''} ({len(ordered)} in all)"


@functools.cache  # once, however often the folder is loaded
def _say(line: str) -> None:
    console.print(visible(line), markup=False, soft_wrap=True)


def why(error: Exception, folder: Path, reports: list[str], suspect: str = "config.json") -> str:
    """The cause of an error of transformers: a damaged file, weights that do not fit; else its words, and the
    file to `suspect`."""
    if damage := _damage(folder) or _no_object(folder, TOKENIZER_FILES):
        return f"{damage}; {AGAIN}"
    if names := _listed(reports, "CONVERSION") or _listed(reports, "MISMATCH"):
        return f"weights have the wrong shape or number: {_few(names)}; {OR_CONFIG}"
    if not any(folder.glob("*.safetensors")) and any(folder.glob("*.bin")):
        return "only safetensors are read, not .bin files; load and save it once with transformers"
    if isinstance(error, LookupError | TypeError | AttributeError | ArithmeticError):  # says little by itself
        return f"{type(error).__name__}: {first_line(error)}; correct its {suspect}"
    return textwrap.shorten(str(error), 400, placeholder=" ...")


def _no_object(folder: Path, names: Iterable[str]) -> str | None:
    """The first of these files of `folder` that does not hold a JSON object."""
    for name in names:
        file = folder / name
        try:
            held = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except ValueError:
            held = None
        if not isinstance(held, dict):
            return f"{name} does not hold a JSON object"
    return None


def _damage(folder: Path) -> str | None:
    """The first file of weights that cannot be read, and why; None if all can be."""
    name = ""
    try:
        for name in _files(folder):
            with safe_open(folder / name, "pt"):
                pass
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        where = f"{name} cannot be read ({first_line(error)})"
        return where if name else f"{INDEX} is not an index of weights"
    return None


def _files(folder: Path) -> list[str]:
    """The names of the files of weights, as transformers looks for them."""
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    if not (folder / INDEX).is_file():
        return []
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return sorted(map(str, set(index["weight_map"].values())))


def _listed(reports: list[str], kind: str) -> list[str]:
    """The weights of a kind ("MISSING", ...) in transformers' tables."""
    return [line.split("|")[0].strip() for report in reports for line in report.splitlines()
            if kind in line.partition("|")[2]]


@contextmanager
def load_reports() -> Iterator[list[str]]:
    """Collects transformers' tables of differences instead of printing them."""
    kept: list[str] = []
    logger = logging.getLogger("transformers.modeling_utils")
    level, shown = logger.level, logger.getEffectiveLevel()

    def keep(record: logging.LogRecord) -> bool:
        if is_report := "LOAD REPORT" in (text := record.getMessage()):
            kept.append(text)
        return not is_report and record.levelno >= shown

    logger.setLevel(min(shown, logging.WARNING - 1))  # reports come whatever the user's verbosity shows
    logger.addFilter(keep)
    try:
        yield kept
    finally:
        logger.removeFilter(keep)
        logger.setLevel(level)
