"""Products of few rows on a CPU, with weights in oneDNN's own order."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor


@contextmanager
def ordered_weights(model: torch.nn.Module, rows: int) -> Iterator[None]:
    """While the block runs every `torch.nn.Linear` of the model has a copy of its weights in the order that
    oneDNN's products of about `rows` rows want: else one is made for each product, which takes as long as the
    product itself. For inference on a CPU in float32 or bf16; elsewhere nothing happens.

    The weights must not change meanwhile. Memory: those of the layers once more."""
    onednn, dtypes = torch.ops.mkldnn, set()
    if torch.backends.mkldnn.is_available():
        dtypes = {torch.float32, torch.bfloat16} if onednn._is_mkldnn_bf16_supported() else {torch.float32}
    layers = [layer for layer in model.modules() if type(layer) is torch.nn.Linear
              and layer.weight.device.type == "cpu" and layer.weight.dtype in dtypes
              and type(layer.weight.data) is Tensor]  # not of another class: quantized, sharded
    try:
        for layer in layers:
            weight = onednn._reorder_linear_weight(layer.weight.detach(), rows)
            bias = None if layer.bias is None else layer.bias.detach()
            layer.forward = partial(_linear, weight, bias)  # type: ignore[method-assign]
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _linear(weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return found
