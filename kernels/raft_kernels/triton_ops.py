"""The three operations on Triton, as ops.py dispatches to them."""

from .triton_sampled import sampled_backward, sampled_logits
from .triton_select import select

__all__ = ["sampled_backward", "sampled_logits", "select"]
