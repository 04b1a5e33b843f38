"""The loss of Eq. 9-10: T^2 KL(q || p) on the teacher's K ids, without full logits."""

from functools import partial

import torch
from torch import Tensor, nn

from . import ops, reference
from .checks import (
    bad,
    check_device,
    check_epilogue,
    check_float_tensor,
    check_head,
    check_reduction,
    check_token_weights,
    choose_backend,
    compute_dtype,
    savable,
)
from .divergence import TokenDivergence, check_divergence
from .parallel import whole
from .targets import TopKTargets


def topk_kl_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: TopKTargets,
    *,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    token_weights: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = None,
    divergence: str = "forward_kl",
    beta: float = 0.5,
) -> Tensor:
    """T^2 KL(teacher || student), both softened by T and renormalised on K ids (Eq. 9-10).

    hidden: [..., D] the student's last hidden states; weight: [V, D] its output head, bias [V].
        float32, bfloat16 or float16 (float64 on the torch and reference backends), accumulated
        in float32 or better. logit_scale and softcap as in `topk_targets`.
    targets: ids and log-probs [..., K] with the same leading dimensions; its temperature is T,
        and T^2 is in the value and in the gradient.
    token_weights: [...] each token's weight; 0 drops the token: no work, no value, no gradient,
        NaN included. For Eq. 10 over B trajectories of L_i tokens: 1 / (B * L_i), and "sum".
    reduction: "mean" divides by the number of tokens (by the sum of token_weights where given),
        "sum" does not divide, "none" gives [...] values multiplied by token_weights.
    backend: None (Triton on a GPU, torch elsewhere), "torch", "triton" or "reference".
    divergence: "forward_kl" is Eq. 10's; "reverse_kl" swaps teacher and student; "jsd" is the
        generalised Jensen-Shannon divergence with `beta` in [0, 1] (0 is the forward KL, 1 the
        reverse). divergence.py has their formulas; `beta` means nothing to the others.

    Returns float32 (float64 where an input is). Each token's value is clamped at 0 from below,
    its gradient kept. Gradients reach hidden, weight and bias, each only where it is needed.

    Raises ValueError naming the argument, what it was and what it must be."""
    hidden, weight = whole(hidden), whole(weight)
    bias = None if bias is None else whole(bias)
    check_head(hidden, weight, bias)
    logit_scale, softcap = check_epilogue(logit_scale, softcap)
    check_loss(hidden, "hidden", weight.shape[0], targets, token_weights, reduction, divergence, beta)
    backend = choose_backend(backend, hidden, weight, targets.k)
    hidden_ND, weight, bias = flat_head(hidden, weight, bias)
    dtype, temperature = compute_dtype(hidden, weight), targets.temperature
    ids_NK, logprobs_NK, weights_N = flat(targets, token_weights, dtype)
    if backend == "reference":
        if weights_N is not None:  # dense gradients would multiply a dropped row's NaN by 0
            dropped_N1 = (weights_N == 0).unsqueeze(-1)
            hidden_ND = torch.where(dropped_N1, 0.0, hidden_ND)
            logprobs_NK = torch.where(dropped_N1, 0.0, logprobs_NK)
        logits_NV = reference.logits(
            hidden_ND.to(dtype), weight.to(dtype), bias, logit_scale, softcap)
        rows_N = reference.token_loss(logits_NV, ids_NK, logprobs_NK, temperature, divergence, beta)
        if weights_N is not None:
            rows_N = torch.where(weights_N == 0, 0.0, rows_N * weights_N)
    else:
        logits_NK = sampled_logits(hidden_ND, weight, bias, ids_NK, weights_N, backend)
        rows_N = TokenDivergence.apply(
            logits_NK, logprobs_NK, weights_N, temperature, logit_scale, softcap, divergence, beta)
    return reduce(rows_N, weights_N, reduction, hidden.shape[:-1])


# Short names; `divergence=` is the general way.
topk_reverse_kl_loss = partial(topk_kl_loss, divergence="reverse_kl")
topk_jsd_loss = partial(topk_kl_loss, divergence="jsd")


def topk_kl_loss_from_logits(
    logits: Tensor,
    targets: TopKTargets,
    *,
    token_weights: Tensor | None = None,
    reduction: str = "mean",
    divergence: str = "forward_kl",
    beta: float = 0.5,
) -> Tensor:
    """`topk_kl_loss` for trainers that only hand out final logits [..., V].

    The gradient reaches the logits (a dense [..., V] tensor: prefer `topk_kl_loss` where the
    hidden states are available). Other arguments, result and errors as there."""
    logits = whole(logits)
    check_float_tensor("logits", logits)
    if logits.dim() < 1:
        raise bad("logits", "a scalar", "of shape [..., V]")
    check_loss(logits, "logits", logits.shape[-1], targets, token_weights, reduction, divergence, beta)
    dtype = compute_dtype(logits)
    ids_NK, logprobs_NK, weights_N = flat(targets, token_weights, dtype)
    logits_NK = logits.reshape(-1, logits.shape[-1]).gather(-1, ids_NK).to(dtype)
    rows_N = TokenDivergence.apply(
        logits_NK, logprobs_NK, weights_N, targets.temperature, 1.0, None, divergence, beta)
    return reduce(rows_N, weights_N, reduction, logits.shape[:-1])


class TopKKLLoss(nn.Module):
    """`topk_kl_loss` as a module: `TopKKLLoss(reduction="mean")(hidden, weight, targets, ...)`."""

    def __init__(
        self,
        reduction: str = "mean",
        backend: str | None = None,
        divergence: str = "forward_kl",
        beta: float = 0.5,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        check_divergence(divergence, beta)
        self.reduction, self.backend = reduction, backend
        self.divergence, self.beta = divergence, beta

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        targets: TopKTargets,
        *,
        bias: Tensor | None = None,
        logit_scale: float = 1.0,
        softcap: float | None = None,
        token_weights: Tensor | None = None,
    ) -> Tensor:
        return topk_kl_loss(
            hidden, weight, targets, bias=bias, logit_scale=logit_scale, softcap=softcap,
            token_weights=token_weights, reduction=self.reduction, backend=self.backend,
            divergence=self.divergence, beta=self.beta,
        )

    def extra_repr(self) -> str:
        return (f"reduction={self.reduction!r}, backend={self.backend!r}, "
                f"divergence={self.divergence!r}, beta={self.beta}")


def check_loss(
    tokens: Tensor, name: str, vocab: int, targets: object, token_weights: object,
    reduction: object, divergence: object, beta: object,
) -> None:
    """What every loss checks; `tokens` [..., D or V] is the student's argument called `name`."""
    leading = tokens.shape[:-1]
    if not isinstance(targets, TopKTargets):
        raise bad("targets", f"a {type(targets).__name__}", "a TopKTargets")
    if targets.ids.shape[:-1] != leading:
        raise bad("targets", f"for tokens of shape {list(targets.ids.shape[:-1])}",
                  f"for the tokens of {name}, of shape {list(leading)}")
    if targets.vocab_size is not None and targets.vocab_size > vocab:
        raise bad("targets", f"over a vocabulary of {targets.vocab_size} ids",
                  f"over at most the student's {vocab} (vocab_size= of topk_targets cuts padding)")
    check_device("targets", targets.ids, tokens)
    check_token_weights(token_weights, leading, tokens)
    check_reduction(reduction)
    check_divergence(divergence, beta)


def flat_head(
    hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """hidden as [N, D], weight, and bias in the dtype of the products, in memory that autograd can save."""
    bias = None if bias is None else savable(bias).to(compute_dtype(hidden, weight))
    return savable(hidden).reshape(-1, hidden.shape[-1]), savable(weight), bias


def flat(
    targets: TopKTargets, token_weights: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """ids [N, K], log-probs [N, K] and token weights [N] in `dtype`, or None."""
    weights_N = None if token_weights is None else savable(token_weights).detach().reshape(-1).to(dtype)
    k = targets.k
    return targets.ids.reshape(-1, k), targets.logprobs.detach().reshape(-1, k), weights_N


def sampled_logits(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, ids_NK: Tensor,
    weights_N: Tensor | None, backend: str,
) -> Tensor:
    """hidden[n] . weight[id] + bias[id] as [N, K]; 0 for tokens of weight 0.

    bias[ids] is a product with 1: its gradient is the weight's segment sum, without atomics."""
    active_N = None if weights_N is None else weights_N != 0
    logits_NK = ops.sampled_logits(hidden_ND, weight_VD, ids_NK, active_N, backend)
    if bias_V is None:
        return logits_NK
    ones_N1 = bias_V.new_ones(ids_NK.shape[0], 1)
    return logits_NK + ops.sampled_logits(ones_N1, bias_V.unsqueeze(-1), ids_NK, active_N, backend)


def reduce(
    rows_N: Tensor, weights_N: Tensor | None, reduction: str, shape: torch.Size
) -> Tensor:
    if reduction == "none":
        return rows_N.view(shape)
    total = rows_N.sum()
    if reduction == "sum":
        return total
    if weights_N is None:
        return total / max(rows_N.numel(), 1)
    count = weights_N.sum()
    return total / torch.where(count == 0, 1.0, count)  # all weights 0: 0, without waiting for the GPU
