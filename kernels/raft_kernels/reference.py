"""The definition of right: the whole method in a few dense lines, in any dtype up to float64.

The oracle of every test, the gate of every benchmark, and `backend="reference"`."""

import math

import torch
from torch import Tensor

from .divergence import DIVERGENCES


def logits(
    hidden: Tensor, weight_VD: Tensor, bias_V: Tensor | None = None, logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """[..., V] logits: (hidden @ weight.T + bias) * scale, then softcap * tanh(. / softcap).

    A cap makes NaN of what is not finite: tanh would make a plausible logit of an overflow, and
    of a bias of -inf, which without a cap means probability 0."""
    with torch.autocast(hidden.device.type, enabled=False):  # it would make a bfloat16 product of it
        out = hidden @ weight_VD.T
    if bias_V is not None:
        out = out + bias_V
    out = out * logit_scale
    if softcap is None:
        return out
    return softcap * torch.tanh(out.nan_to_num(math.nan, math.nan, math.nan) / softcap)


def select(logits: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """ids and log softmax(logits / T) of the K largest logits, best first, ties to the lower id."""
    ids = logits.argsort(dim=-1, descending=True, stable=True)[..., :k].contiguous()
    return ids, torch.log_softmax(logits / temperature, -1).gather(-1, ids)


def token_loss(
    logits: Tensor, ids: Tensor, logprobs: Tensor, temperature: float,
    divergence: str = "forward_kl", beta: float = 0.5,
) -> Tensor:
    """[...] T^2 * divergence(q, p) on the K ids (Eq. 9-10), clamped at 0 with its gradient kept.

    Its gradient is autograd's of the value: the table's gradient is judged by it."""
    log_q = torch.log_softmax(logprobs.to(logits.dtype), -1)
    log_p = torch.log_softmax(logits.gather(-1, ids) / temperature, -1)
    value, _ = DIVERGENCES[divergence](log_q, log_p, beta)
    return temperature**2 * (value + (-value).clamp_min(0).detach())
