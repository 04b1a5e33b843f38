"""The small step between the products: logits and teacher log-probs on [N, K] to loss and gradient.

Both sides are softened by T and renormalised on the K ids (Eq. 8-9), so any constant added to a
row of either side cancels: the full normalisers are never needed here.
"""

import math
from typing import Any

import torch
from torch import Tensor

FORWARD_KL, REVERSE_KL, JSD = "forward_kl", "reverse_kl", "jsd"
SLICE_BYTES = 16 << 20  # of logits at a time: at N = 8192 all of K = 512, a quarter of K = 2048


def _times(weight_NK: Tensor, log_ratio_NK: Tensor) -> Tensor:
    """weight * log_ratio with 0 * inf = 0, the limit of x log x."""
    return torch.where(weight_NK == 0, 0.0, weight_NK * log_ratio_NK)


def divergence(log_q_NK: Tensor, log_p_NK: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """A divergence of normalised q (teacher) and p (student), and its gradient.

    Returns (value_N, gradient_NK), the gradient with respect to the logits whose softmax is p.
    """
    q_NK, p_NK = log_q_NK.exp(), log_p_NK.exp()
    if kind == FORWARD_KL:  # KL(q || p), Eq. 10
        return _times(q_NK, log_q_NK - log_p_NK).sum(-1), p_NK - q_NK
    if kind == REVERSE_KL:  # KL(p || q)
        terms_NK = _times(p_NK, log_p_NK - log_q_NK)
        value_N = terms_NK.sum(-1)
        return value_N, terms_NK - p_NK * value_N.unsqueeze(-1)
    # JSD = (KL(q || m) + KL(p || m)) / 2 with m = (p + q) / 2
    log_m_NK = torch.logaddexp(log_q_NK, log_p_NK) - math.log(2.0)
    student_NK = _times(p_NK, log_p_NK - log_m_NK)
    student_N = student_NK.sum(-1)
    value_N = (_times(q_NK, log_q_NK - log_m_NK).sum(-1) + student_N) / 2
    return value_N, (student_NK - p_NK * student_N.unsqueeze(-1)) / 2


def _token_divergence(
    logits_NK: Tensor,
    logprobs_NK: Tensor,
    token_weights_N: Tensor | None,
    temperature: float,
    logit_scale: float,
    softcap: float | None,
    kind: str,
) -> tuple[Tensor, Tensor]:
    """`TokenDivergence` of some rows, and its gradient with respect to their logits."""
    final_NK = logits_NK * logit_scale
    if softcap is not None:
        # tanh(inf) = 1 would turn an overflow into a plausible logit
        tanh_NK = torch.tanh(final_NK.nan_to_num(math.nan, math.nan, math.nan) / softcap)
        final_NK = tanh_NK * softcap
    log_p_NK = torch.log_softmax(final_NK / temperature, -1)
    log_q_NK = torch.log_softmax(logprobs_NK.to(log_p_NK.dtype), -1)
    value_N, gradient_NK = divergence(log_q_NK, log_p_NK, kind)
    # Equal distributions come out as +-1e-8; a negative loss breaks a balance of losses.
    # The clamp is on the value only: the gradient near 0 is p - q and already right.
    value_N = value_N.clamp_min(0) * temperature**2
    gradient_NK = gradient_NK * (temperature * logit_scale)  # T^2 from the loss, 1/T from z/T
    if softcap is not None:
        gradient_NK = gradient_NK * (1 - tanh_NK * tanh_NK)
    if token_weights_N is not None:
        dropped_N = token_weights_N == 0
        value_N = torch.where(dropped_N, 0.0, value_N * token_weights_N)
        gradient_NK = torch.where(
            dropped_N.unsqueeze(-1), 0.0, gradient_NK * token_weights_N.unsqueeze(-1)
        )
    return value_N, gradient_NK


class TokenDivergence(torch.autograd.Function):
    """T^2 * w * divergence a token; the gradient with respect to the raw logits is made in forward.

    A token of weight 0 gives 0 and takes gradient 0 whatever its logits are, NaN included.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits_NK: Tensor,
        logprobs_NK: Tensor,
        token_weights_N: Tensor | None,
        temperature: float,
        logit_scale: float,
        softcap: float | None,
        kind: str,
    ) -> Tensor:
        n, k = logits_NK.shape
        step = max(1, SLICE_BYTES // max(1, k * logits_NK.element_size()))
        if torch.compiler.is_compiling() or n <= step:  # a compiler fuses the steps by itself
            value_N, gradient_NK = _token_divergence(
                logits_NK, logprobs_NK, token_weights_N, temperature, logit_scale, softcap, kind)
        else:
            value_N, gradient_NK = logits_NK.new_empty(n), torch.empty_like(logits_NK)
            for rows in (slice(first, first + step) for first in range(0, n, step)):
                value_N[rows], gradient_NK[rows] = _token_divergence(
                    logits_NK[rows], logprobs_NK[rows],
                    None if token_weights_N is None else token_weights_N[rows],
                    temperature, logit_scale, softcap, kind)
        if token_weights_N is None:
            ctx.save_for_backward(gradient_NK)
        else:
            ctx.save_for_backward(gradient_NK, token_weights_N == 0)
        return value_N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        gradient_NK, *dropped = ctx.saved_tensors
        grad_NK = gradient_NK * grad_outputs[0].unsqueeze(-1)
        if dropped:  # again: what comes from above may be NaN
            grad_NK = torch.where(dropped[0].unsqueeze(-1), 0.0, grad_NK)
        return grad_NK, None, None, None, None, None, None
