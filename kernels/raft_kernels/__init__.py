"""Exact top-K temperature distillation without full logits (arXiv 2606.00147, Eq. 8-10)."""

from .cross_entropy import cross_entropy_sum, logit_rows
from .divergence import DIVERGENCES
from .kl import (
    TopKKLLoss,
    topk_jsd_loss,
    topk_kl_loss,
    topk_kl_loss_from_logits,
    topk_reverse_kl_loss,
)
from .ordered_weights import ordered_weights
from .targets import TopKTargets, topk_targets

__all__ = [
    "DIVERGENCES",
    "TopKKLLoss",
    "TopKTargets",
    "cross_entropy_sum",
    "logit_rows",
    "ordered_weights",
    "topk_jsd_loss",
    "topk_kl_loss",
    "topk_kl_loss_from_logits",
    "topk_reverse_kl_loss",
    "topk_targets",
]
