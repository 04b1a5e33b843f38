"""Heads whose weight is spread over processes."""

from torch import Tensor


def whole(tensor: Tensor) -> Tensor:
    """A DTensor (an FSDP2 or tensor-parallel shard) gathered once, differentiably; others as is."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()
