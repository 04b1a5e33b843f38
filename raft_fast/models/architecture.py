"""Properties of any model of transformers: its depth, its longest position, and its modules that are not for
text (a vision tower)."""

import math
from collections.abc import Iterator
from typing import Any

import torch


def text_config(model: Any) -> Any:
    """The configuration of the language model: models that see images too keep it inside another."""
    return model.config.get_text_config()


def positions(model: Any) -> float:
    """The most tokens of a sequence; infinity if the model has no limit (ALiBi, state spaces)."""
    config = text_config(model)
    return (getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
            or math.inf)


def rope_switches(model: Any) -> list[int]:
    """Lengths at which a sequence's rotary frequencies change, ascending. transformers takes them from the
    longest sequence of a pass: one of two sets ("longrope"), or scaled by its length ("dynamic")."""
    config = text_config(model)
    given = getattr(config, "rope_parameters", None) or {}
    kinds = [given] if "rope_type" in given else [one for one in given.values() if isinstance(one, dict)]
    found = set()
    for one in kinds:
        if one.get("rope_type") == "longrope":
            found.add(int(one["original_max_position_embeddings"]))
        elif "dynamic" in one.get("rope_type", ""):
            found.add(int(config.max_position_embeddings) - 1)  # only below it are they set back
    return sorted(found)


def layers(model: Any) -> torch.nn.ModuleList:
    """The decoder's layers, whatever it calls them ("layers", "h", "blocks")."""
    depth = text_config(model).num_hidden_layers
    return next(part for part in model.get_decoder().children()
                if isinstance(part, torch.nn.ModuleList) and len(part) == depth)


def beside_text(model: Any) -> list[str]:
    """Names of the outermost modules that text never passes through: they get no gradient."""
    text = {id(weight) for part in (model.get_decoder(), model.get_output_embeddings())
            for weight in part.parameters()}
    return list(_without(model, text, ""))


def _without(module: Any, text: set[int], prefix: str) -> Iterator[str]:
    for name, child in module.named_children():
        own = {id(weight) for weight in child.parameters()}
        if own and not own & text:
            yield prefix + name
        elif own - text:
            yield from _without(child, text, f"{prefix}{name}.")
