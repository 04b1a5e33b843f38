"""The small step between the products: logits and teacher log-probs on [N, K] to loss and gradient.

Both sides are softened by T and renormalised on the K ids (Eq. 8-9), so any constant added to a
row of either side cancels: the full normalisers are never needed here.

A divergence is one function in the table `DIVERGENCES`. It takes the normalised log q (teacher) and
log p (student) [N, K] and `beta`, and returns the value [N] and its gradient [N, K] with respect to
the logits whose softmax is p."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .checks import bad, is_number

SLICE_BYTES = 16 << 20  # of logits at a time: at N = 8192 all of K = 512, a quarter of K = 2048


def forward_kl(log_q_NK: Tensor, log_p_NK: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """KL(q || p), Eq. 10: the student covers all that the teacher does."""
    q_NK, p_NK = log_q_NK.exp(), log_p_NK.exp()
    return _times(q_NK, log_q_NK - log_p_NK).sum(-1), p_NK - q_NK


def reverse_kl(log_q_NK: Tensor, log_p_NK: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """KL(p || q): the student seeks a mode. Infinite where the teacher gives an id probability 0."""
    p_NK = log_p_NK.exp()
    return _centred(p_NK, _times(p_NK, log_p_NK - log_q_NK))


def jsd(log_q_NK: Tensor, log_p_NK: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """beta KL(q || m) + (1 - beta) KL(p || m) with m = beta q + (1 - beta) p (arXiv 2306.13649).

    At most log 2 at beta 0.5. At beta 0 and 1, where it would be 0, it is the forward and the
    reverse KL, as in TRL's GKD."""
    if beta in (0, 1):
        return (reverse_kl if beta else forward_kl)(log_q_NK, log_p_NK, beta)
    log_m_NK = torch.logaddexp(log_q_NK + math.log(beta), log_p_NK + math.log1p(-beta))
    teacher_N = _times(log_q_NK.exp(), log_q_NK - log_m_NK).sum(-1)
    p_NK = log_p_NK.exp()
    student_N, gradient_NK = _centred(p_NK, _times(p_NK, log_p_NK - log_m_NK))
    return beta * teacher_N + (1 - beta) * student_N, (1 - beta) * gradient_NK


DIVERGENCES: dict[str, Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
}


def check_divergence(name: object, beta: object) -> None:
    """Raise ValueError for an unknown name or a beta outside [0, 1]."""
    if not isinstance(name, str) or name not in DIVERGENCES:
        raise bad("divergence", repr(name), f"one of {sorted(DIVERGENCES)}")
    if not is_number(beta) or not 0 <= beta <= 1:
        raise bad("beta", repr(beta), "a number from 0 to 1")


def _times(weight_NK: Tensor, log_ratio_NK: Tensor) -> Tensor:
    """weight * log_ratio with 0 * inf = 0, the limit of x log x; no NaN under autograd either."""
    return weight_NK * torch.where(weight_NK == 0, 0.0, log_ratio_NK)


def _centred(p_NK: Tensor, terms_NK: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the terms p * g, and p * (g - sum): g taken back through the softmax."""
    value_N = terms_NK.sum(-1)
    return value_N, terms_NK - p_NK * value_N.unsqueeze(-1)


def _token_divergence(
    logits_NK: Tensor, logprobs_NK: Tensor, token_weights_N: Tensor | None, temperature: float,
    logit_scale: float, softcap: float | None, divergence: str, beta: float,
) -> tuple[Tensor, Tensor]:
    """`TokenDivergence` of some rows, and its gradient with respect to their logits."""
    final_NK = logits_NK * logit_scale
    if softcap is not None:
        # tanh(inf) = 1 would turn an overflow into a plausible logit
        tanh_NK = torch.tanh(final_NK.nan_to_num(math.nan, math.nan, math.nan) / softcap)
        final_NK = tanh_NK * softcap
    log_p_NK = torch.log_softmax(final_NK / temperature, -1)
    log_q_NK = torch.log_softmax(logprobs_NK.to(log_p_NK.dtype), -1)
    value_N, gradient_NK = DIVERGENCES[divergence](log_q_NK, log_p_NK, beta)
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

    A token of weight 0 gives 0 and takes gradient 0 whatever its logits are, NaN included."""

    @staticmethod
    def forward(
        ctx: Any, logits_NK: Tensor, logprobs_NK: Tensor, token_weights_N: Tensor | None,
        temperature: float, logit_scale: float, softcap: float | None, divergence: str, beta: float,
    ) -> Tensor:
        n, k = logits_NK.shape
        step = max(1, SLICE_BYTES // max(1, k * logits_NK.element_size()))
        options = (temperature, logit_scale, softcap, divergence, beta)
        if torch.compiler.is_compiling() or n <= step:  # a compiler fuses the steps by itself
            value_N, gradient_NK = _token_divergence(logits_NK, logprobs_NK, token_weights_N, *options)
        else:
            value_N, gradient_NK = logits_NK.new_empty(n), torch.empty_like(logits_NK)
            for rows in (slice(first, first + step) for first in range(0, n, step)):
                value_N[rows], gradient_NK[rows] = _token_divergence(
                    logits_NK[rows], logprobs_NK[rows],
                    None if token_weights_N is None else token_weights_N[rows], *options)
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
        if dropped:  # again: the upstream gradient may be NaN
            grad_NK = torch.where(dropped[0].unsqueeze(-1), 0.0, grad_NK)
        return grad_NK, None, None, None, None, None, None, None
