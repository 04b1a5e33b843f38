"""A model's weights are what its configuration asks for: all of them, of that shape, finite."""

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


def load_whole(folder: Path, told: str, **how: Any) -> Any:
    """The causal language model in `folder`, by transformers: safetensors only, no remote code. `told` is
    what errors call the folder, `how` goes to `from_pretrained`.

    Raises UserError where it cannot be loaded, and where a weight is missing, has another shape than the
    configuration says, is not finite, or belongs to a layer that the configuration does not have. Weights of
    something else (a value head, multi-token prediction) are named in one line on the terminal; those of
    a part that the model would have by another configuration are refused.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{told}: holds an adapter (adapter_config.json); merge it into its base model "
                        "(peft's merge_and_unload) and name the folder of what is saved, or name the base")
    if damage := _no_object(folder, [GENERATION]):  # transformers silently takes config.json's values
        raise UserError(f"{told}: {damage}; {AGAIN}")
    auto: Any = AutoModelForCausalLM  # its types leave the report out
    with load_reports() as reports:
        try:
            # by itself, as nothing that `how` says instead is checked below (a dtype that there is not)
            stored = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            model, found = auto.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, output_loading_info=True,
                ignore_mismatched_sizes=True, **how)  # refused below, with their names
        except Exception as error:  # a folder can be wrong in any way, and each raises another kind
            attention, words = how.get("attn_implementation"), str(error).replace(str(folder), "")
            if attention and (isinstance(error, ImportError) or re.search("attention|attn", words, re.I)):
                reason = words.split(". ")[0].strip(".")
                raise UserError(f"--attn_implementation {attention}: {reason}; leave it out, and what the "
                                "model supports is taken") from error
            raise UserError(f"{told}: cannot be loaded: {why(error, folder, reports)}") from error
    quantized = _quantized(stored)
    _check_names(told, found, model, quantized)
    if not quantized:
        _check_fractions(told, folder, model, found["unexpected_keys"])
    _check_finite(told, model)
    return model


def check_written(folder: Path) -> None:
    """Raises UserError where the model just written to `folder` would not load as `load_whole` asks. Only
    names and shapes are read where accelerate is installed, which can load a model without memory for it."""
    load_whole(folder, f"{folder} (just written)", **(
        {"device_map": "meta"} if importlib.util.find_spec("accelerate") else {}))


def check_encoder(told: str, folder: Path, encoder: torch.nn.Module, reports: list[str]) -> None:
    """The same of a model that sentence-transformers loaded under `load_reports`. A pooler may be missing:
    BERT has one, but most encoders neither use nor store it."""
    from transformers import PreTrainedModel

    _refuse(told, [name for name in _listed(reports, "MISSING") if not name.startswith("pooler.")],
            "weights are missing", OR_CONFIG)
    if not any(isinstance(part, PreTrainedModel) and _quantized(part.config) for part in encoder.modules()):
        _check_fractions(told, folder, encoder, [])
    _check_finite(told, encoder)


def _quantized(config: Any) -> bool:
    """Whether a configuration says how the stored weights are quantized, in a way that transformers knows."""
    from transformers.quantizers import AutoHfQuantizer

    given = [getattr(one, "quantization_config", None) for one in (config, config.get_text_config())]
    return any(one and AutoHfQuantizer.supports_quant_method(one) for one in given)


def _check_fractions(told: str, folder: Path, model: Any, unexpected: Iterable[str]) -> None:
    """Raises UserError where weights are stored as whole numbers, which transformers takes as they are. Masks
    and positions may be."""
    own, wrong = model.state_dict(), []
    for file in _files(folder):
        with safe_open(folder / file, "pt") as tensors:
            wrong += [name for name in set(tensors.keys()).difference(unexpected)
                      if (name.endswith(".weight") or (name in own and own[name].is_floating_point()))
                      and tensors.get_slice(name).get_dtype().startswith(WHOLE_NUMBERS)]
    _refuse(told, wrong, "weights are whole numbers, config.json does not say how they are quantized",
            ADD_QUANTIZATION)


def _check_names(told: str, found: dict[str, Any], model: Any, quantized: bool) -> None:
    """Raises UserError where names and shapes that transformers `found` are not the model's."""
    own, rest = set(model.state_dict()), found["unexpected_keys"]
    _refuse(told, filter(UNMERGED.search, rest), "weights are of an adapter that was not merged",
            "merge it (peft's merge_and_unload) and save the model again")
    _refuse(told, found["missing_keys"], "weights are missing", OR_CONFIG)
    shapes = [f"{name} {list(has)} for {list(asked)}" for name, has, asked in found["mismatched_keys"]]
    _refuse(told, shapes, "weights have the wrong shape", OR_CONFIG)
    if not quantized:
        _refuse(told, filter(QUANTIZED.search, rest), "weights are quantized, config.json does not say how",
                ADD_QUANTIZATION)
    _refuse(told, _surplus(rest, own), "weights are of layers that config.json does not have",
            "correct its num_hidden_layers")
    if not quantized:  # tools for quantization write biases that are zero and never read
        _refuse(told, _parts(rest, model), "weights are of parts that config.json does not have",
                "correct its model_type, or what it says of biases and norms (attention_bias, ...)")
    if rest:
        _say(f"{told}: weights that {type(model).__name__} does not have are left out: {_few(rest)}")


def _surplus(unexpected: Iterable[str], own: set[str]) -> list[str]:
    """Names that differ from the model's own in numbers alone: of layers that the configuration leaves out.
    A layer with parts that no other has (multi-token prediction) is something else."""
    kinds, layers = {NUMBER.sub("*", name) for name in own}, {_layer(name) for name in own}
    alike = [name for name in unexpected if NUMBER.sub("*", name) in kinds]
    strange = {_layer(name) for name in unexpected if NUMBER.sub("*", name) not in kinds} - layers
    return [name for name in alike if _layer(name) not in strange]


def _parts(unexpected: Iterable[str], model: Any) -> list[str]:
    """Weights and biases of a layer that the model has (q_proj.bias), or beside such a layer inside one of
    its numbered blocks (q_norm.weight): the model computes something else without them. What has no place
    there is something else (a head, a tower, a mask that attention keeps as `bias`)."""
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


def _check_finite(told: str, model: torch.nn.Module) -> None:
    _refuse(told, [name for name, tensor in model.state_dict().items() if not _finite(tensor)],
            "weights hold NaN or Inf", AGAIN)


def _finite(tensor: Any) -> bool:
    """In one pass, without a copy; of quantized weights the scales, not numbers of eight bits or fewer."""
    if is_traceable_wrapper_subclass(tensor):
        return all(_finite(getattr(tensor, part)) for part in tensor.__tensor_flatten__()[0])
    if not (isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.itemsize > 1
            and tensor.numel() and not tensor.is_meta):
        return True
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def _refuse(told: str, names: Iterable[str], what: str, instead: str) -> None:
    if names := list(names):
        raise UserError(f"{told}: {what}: {_few(names)}; {instead}")


def _few(names: Iterable[str]) -> str:
    """The first few, in the order of their numbers, and how many there are."""
    ordered = sorted(names, key=lambda name: [(len(part) if part.isdigit() else 0, part)
                                              for part in name.split(".")])
    return f"{', '.join(ordered[:SHOWN])}{', ...' if len(ordered) > SHOWN else ''} ({len(ordered)} in all)"


@functools.cache  # once, however often the folder is loaded
def _say(line: str) -> None:
    console.print(visible(line), markup=False, soft_wrap=True)


def why(error: Exception, folder: Path, reports: list[str], suspect: str = "config.json") -> str:
    """What an error of transformers comes from: a damaged file, weights that do not fit; else its words, and
    the file to `suspect`."""
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
    """The first of these files of `folder` that holds something else than a JSON object."""
    for name in names:
        if (folder / name).is_file():
            try:
                held = json.loads((folder / name).read_text(encoding="utf-8"))
            except ValueError:
                held = None
            if not isinstance(held, dict):
                return f"{name} does not hold a JSON object"
    return None


def _damage(folder: Path) -> str | None:
    """The first file of weights that cannot be read, and why; None where all can be."""
    try:
        files = _files(folder)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"{INDEX} is not an index of weights"
    for name in files:
        try:
            with safe_open(folder / name, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{name} cannot be read ({first_line(error)})"
    return None


def _files(folder: Path) -> list[str]:
    """The names of the files of weights, as transformers looks for them; none where there are none."""
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
    """Keeps transformers' tables of what differs, instead of the terminal."""
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
