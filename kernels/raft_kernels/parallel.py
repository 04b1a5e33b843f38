"""Heads whose weight is spread over processes."""

from typing import Any

import torch
from torch import Tensor


def whole(tensor: Tensor) -> Tensor:
    """A DTensor (an FSDP2 or tensor-parallel shard) gathered once, differentiably; others as is.

    Its gradient is the average over the processes of its mesh: right where each has its own data
    (as FSDP2 averages), and where all have the same, since equal gradients are their average."""
    gather: Any = getattr(tensor, "full_tensor", None)
    if gather is None:
        return tensor
    from torch.distributed.tensor import Partial

    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    full = gather(grad_placements=[Partial()] * mesh.ndim)
    return _ScaleGradient.apply(full, 1 / mesh.size())  # type: ignore[no-any-return]


class _ScaleGradient(torch.autograd.Function):
    """The same tensor forward; gloo has no average, so the gradient is divided, then summed."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0] * ctx.factor, None
