"""How far the weights have moved: relative l2 distance from the base, in all and by layer."""

import re
from typing import Any

import torch

LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


@torch.no_grad()
def weight_distance(base: Any, trained: Any) -> dict[str, Any] | None:
    """‖W - W₀‖ / ‖W₀‖ over all weights, and of each layer, the embedding and the rest.

    None where the two models do not have the same weights. Sums are in float64; tied weights count
    once.
    """
    before, after = dict(base.named_parameters()), dict(trained.named_parameters())
    if {name: one.shape for name, one in before.items()} != {name: one.shape for name, one in after.items()}:
        return None
    sums: dict[str, list[float]] = {}
    for name, old in before.items():
        new = after[name].to(old.device).double()
        squares = sums.setdefault(_part(name), [0.0, 0.0])
        squares[0] += float((new - old.double()).square().sum())
        squares[1] += float(old.double().square().sum())
    total = [sum(column) for column in zip(*sums.values(), strict=True)]
    return {"all": _ratio(*total), "parts": {part: _ratio(*squares) for part, squares in sums.items()}}


def _part(name: str) -> str:
    """Which part of the model a weight belongs to: "layer 3", "embedding" or "rest"."""
    if layer := LAYER.search(f".{name}"):
        return f"layer {layer[1]}"
    return "embedding" if "embed" in name or "lm_head" in name else "rest"


def _ratio(moved: float, norm: float) -> float:
    return (moved / norm) ** 0.5 if norm else 0.0
