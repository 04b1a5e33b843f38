"""Other divergences on the same K ids, from the same products: only the [N, K] step differs."""

from typing import TypedDict, Unpack

from torch import Tensor

from .divergence import JSD, REVERSE_KL
from .kl import head_loss
from .targets import TopKTargets


class LossOptions(TypedDict, total=False):
    """The keyword arguments of `topk_kl_loss`."""

    bias: Tensor | None
    logit_scale: float
    softcap: float | None
    token_weights: Tensor | None
    reduction: str
    backend: str | None


def topk_reverse_kl_loss(
    hidden: Tensor, weight: Tensor, targets: TopKTargets, **options: Unpack[LossOptions]
) -> Tensor:
    """T^2 KL(student || teacher) on the K ids: mode-seeking, where `topk_kl_loss` covers.

    Arguments, result and errors as in `topk_kl_loss`. Infinite where the teacher gives an id
    probability 0.
    """
    return head_loss(REVERSE_KL, hidden, weight, targets, **options)


def topk_jsd_loss(
    hidden: Tensor, weight: Tensor, targets: TopKTargets, **options: Unpack[LossOptions]
) -> Tensor:
    """T^2 times the Jensen-Shannon divergence, (KL(q || m) + KL(p || m)) / 2 with m = (p + q) / 2.

    Bounded by T^2 log 2. Arguments, result and errors as in `topk_kl_loss`.
    """
    return head_loss(JSD, hidden, weight, targets, **options)
