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
    divergence: what is measured in the place of KL(teacher || student): "forward_kl" (that),
        "reverse_kl" or "jsd", the generalised Jensen-Shannon divergence with `beta` in [0, 1]
        (0 is the forward KL, 1 the reverse); divergence.py has their formulas.

    Returns float32 (float64 where an input is). Each token's value is clamped at 0 from below,
    its gradient kept. Gradients reach hidden, weight and bias, each only where it is needed.

    Raises ValueError naming the argument, what it was and what it must be.
    """
    hidden, weight = whole(hidden), whole(weight)
    bias = None if bias is None else whole(bias)
    check_head(hidden, weight, bias)
    hidden, weight = savable(hidden), savable(weight)
    bias = None if bias is None else savable(bias)
    logit_scale, softcap = check_epilogue(logit_scale, softcap)
    check_targets(targets, hidden.shape[:-1], weight.shape[0], hidden, "hidden")
    check_token_weights(token_weights, hidden.shape[:-1], hidden)
    check_reduction(reduction)
    check_divergence(divergence, beta)
    backend = choose_backend(backend, hidden, weight, targets.k)
    dtype = compute_dtype(hidden, weight)
    hidden_ND = hidden.reshape(-1, hidden.shape[-1])
    ids_NK, logprobs_NK, weights_N = flat(targets, token_weights, dtype)
    bias = None if bias is None else bias.to(dtype)
    if backend == "reference":
        if weights_N is not None:  # dense gradients would multiply a dropped row's NaN by 0
            dropped_N1 = (weights_N == 0).unsqueeze(-1)
            hidden_ND = torch.where(dropped_N1, 0.0, hidden_ND)
            logprobs_NK = torch.where(dropped_N1, 0.0, logprobs_NK)
        logits_NV = reference.logits(
            hidden_ND.to(dtype), weight.to(dtype), bias, logit_scale, softcap
        )
        rows_N = reference.token_loss(
            logits_NV, ids_NK, logprobs_NK, targets.temperature, divergence, beta)
        if weights_N is not None:
            rows_N = torch.where(weights_N == 0, 0.0, rows_N * weights_N)
    else:
        active_N = None if weights_N is None else weights_N != 0
        logits_NK = ops.sampled_logits(hidden_ND, weight, ids_NK, active_N, backend)
        if bias is not None:
            logits_NK = logits_NK + bias_at(bias, ids_NK, active_N, backend)
        rows_N = TokenDivergence.apply(
            logits_NK, logprobs_NK, weights_N, targets.temperature, logit_scale, softcap,
            divergence, beta)
    return reduce(rows_N, weights_N, reduction, hidden.shape[:-1])


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
    hidden states are available). Other arguments, result and errors as there.
    """
    logits = whole(logits)
    check_float_tensor("logits", logits)
    if logits.dim() < 1:
        raise bad("logits", "a scalar", "of shape [..., V]")
    check_targets(targets, logits.shape[:-1], logits.shape[-1], logits, "logits")
    check_token_weights(token_weights, logits.shape[:-1], logits)
    check_reduction(reduction)
    check_divergence(divergence, beta)
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


# Short names of the divergences that older code asks for.
topk_reverse_kl_loss = partial(topk_kl_loss, divergence="reverse_kl")
topk_jsd_loss = partial(topk_kl_loss, divergence="jsd")


def check_targets(
    targets: object, leading: torch.Size, vocab: int, student: Tensor, name: str
) -> None:
    if not isinstance(targets, TopKTargets):
        raise bad("targets", f"a {type(targets).__name__}", "a TopKTargets")
    if targets.ids.shape[:-1] != leading:
        raise bad("targets", f"for tokens of shape {list(targets.ids.shape[:-1])}",
                  f"for the tokens of {name}, of shape {list(leading)}")
    if targets.vocab_size is not None and targets.vocab_size > vocab:
        raise bad("targets", f"over a vocabulary of {targets.vocab_size} ids",
                  f"over at most the student's {vocab} (vocab_size= of topk_targets cuts padding)")
    check_device("targets", targets.ids, student)


def flat(
    targets: TopKTargets, token_weights: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    weights_N = None if token_weights is None else savable(token_weights).detach().reshape(-1).to(dtype)
    k = targets.k
    return targets.ids.reshape(-1, k), targets.logprobs.detach().reshape(-1, k), weights_N


def bias_at(bias_V: Tensor, ids_NK: Tensor, active_N: Tensor | None, backend: str) -> Tensor:
    """bias[ids] as a product with 1: its gradient is the weight's segment sum, without atomics."""
    ones_N1 = bias_V.new_ones(ids_NK.shape[0], 1)
    return ops.sampled_logits(ones_N1, bias_V.unsqueeze(-1), ids_NK, active_N, backend)


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
    return total / torch.where(count == 0, 1.0, count)  # all weights 0: 0, without asking the GPU
