"""Heads whose rows are spread over processes: each holds some of the vocabulary, none gathers it.

Every process of the group calls the same function with the same hidden states and its own rows
of the weight. Select exchanges K candidates, a maximum and a sum of exponentials a token; the
loss sums the sampled logits, each made where its row lives.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from . import ops
from .checks import (
    bad,
    check_epilogue,
    check_head,
    check_k,
    check_positive,
    choose_backend,
    compute_dtype,
)
from .divergence import TokenDivergence
from .kl import check_loss, flat, flat_head, reduce, sampled_logits
from .targets import TopKTargets

Group = Any  # torch.distributed.ProcessGroup, which some builds lack
_LAYOUTS: WeakKeyDictionary[Any, set[tuple[int, int, int]]] = WeakKeyDictionary()  # that passed the check


def vocab_parallel_topk_targets(
    hidden: Tensor,
    weight_rows: Tensor,
    first_row: int,
    vocab_size: int,
    k: int = 512,
    temperature: float = 1.5,
    *,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    group: Group = None,
    backend: str | None = None,
) -> TopKTargets:
    """`topk_targets` of a vocabulary whose rows are spread over a process group.

    hidden [..., D]: the same on every process. weight_rows [V_p, D], bias [V_p]: the rows
    first_row ... first_row + V_p - 1 of the head; vocab_size: V, from which on rows are padding.
    Every process returns the same targets as one process with the whole head would.
    """
    check_head(hidden, weight_rows, bias)
    temperature = check_positive("temperature", temperature)
    logit_scale, softcap = check_epilogue(logit_scale, softcap)
    k = check_k(k, vocab_size)
    backend = _backend(backend, hidden, weight_rows, k)
    _check_rows(first_row, weight_rows, vocab_size, group)
    rows = max(0, min(weight_rows.shape[0], vocab_size - first_row))
    weight_rows, bias = weight_rows[:rows], None if bias is None else bias[:rows]
    mine = min(k, rows)
    hidden_ND = hidden.detach().reshape(-1, hidden.shape[-1])
    if mine:
        ids_NK, top_NK, log_sum_N = ops.select(
            hidden_ND, weight_rows.detach(), None if bias is None else bias.detach(), mine,
            temperature, logit_scale, softcap, backend,
        )
    else:  # a process without rows sends padding only
        top_NK = hidden_ND.new_empty((len(hidden_ND), 0), dtype=compute_dtype(hidden, weight_rows))
        ids_NK, log_sum_N = top_NK.long(), top_NK.new_full((len(hidden_ND),), float("-inf"))
    # processes with fewer than K rows send as many candidates as the others
    ids_NK = torch.nn.functional.pad(ids_NK + first_row, (0, k - mine), value=2**62)
    top_NK = torch.nn.functional.pad(top_NK, (0, k - mine), value=float("-inf"))
    best_NP = _gathered(top_NK[:, :1], group)
    best_N1 = best_NP.amax(-1, keepdim=True)
    log_sums_NP = _gathered(log_sum_N.unsqueeze(-1), group) + (best_NP - best_N1) / temperature
    # a process whose logits are all -inf adds nothing; relative to its best it would add NaN
    log_sums_NP = log_sums_NP.masked_fill(best_NP.isneginf(), float("-inf"))
    ids_NC, by_id = _gathered(ids_NK, group).sort(dim=-1)
    top_NC, order = _gathered(top_NK, group).gather(-1, by_id).sort(
        dim=-1, descending=True, stable=True)
    logprobs_NK = (top_NC[:, :k] - best_N1) / temperature - log_sums_NP.logsumexp(-1, keepdim=True)
    shape = (*hidden.shape[:-1], k)
    return TopKTargets(
        ids_NC.gather(-1, order[:, :k]).view(shape), logprobs_NK.view(shape), temperature,
        vocab_size=vocab_size, checked=True,
    )


def vocab_parallel_topk_kl_loss(
    hidden: Tensor,
    weight_rows: Tensor,
    first_row: int,
    targets: TopKTargets,
    *,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    token_weights: Tensor | None = None,
    reduction: str = "mean",
    group: Group = None,
    backend: str | None = None,
    divergence: str = "forward_kl",
    beta: float = 0.5,
) -> Tensor:
    """`topk_kl_loss` of a vocabulary whose rows are spread over a process group.

    Raises ValueError, on every process, where an id's row is held by none or by two.
    Every process returns the whole loss and gets the whole gradient of hidden and the gradient
    of its own rows of weight and bias.
    """
    check_head(hidden, weight_rows, bias)
    logit_scale, softcap = check_epilogue(logit_scale, softcap)
    vocab = getattr(targets, "vocab_size", None) or 0
    check_loss(hidden, "hidden", vocab, targets, token_weights, reduction, divergence, beta)
    backend = _backend(backend, hidden, weight_rows, targets.k)
    _check_rows(first_row, weight_rows, vocab, group)
    hidden_ND, weight_rows, bias = flat_head(hidden, weight_rows, bias)
    ids_NK, logprobs_NK, weights_N = flat(targets, token_weights, compute_dtype(hidden, weight_rows))
    local_NK = ids_NK - first_row
    here_NK = (local_NK >= 0) & (local_NK < weight_rows.shape[0])
    logits_NK = sampled_logits(_SumGradient.apply(hidden_ND, group), weight_rows, bias,
                               torch.where(here_NK, local_NK, -1), weights_N, backend)
    rows_N = TokenDivergence.apply(
        _SumValue.apply(logits_NK, group), logprobs_NK, weights_N, targets.temperature,
        logit_scale, softcap, divergence, beta)
    return reduce(rows_N, weights_N, reduction, hidden.shape[:-1])


def _backend(backend: object, hidden: Tensor, weight_rows: Tensor, k: int) -> str:
    if backend == "reference":
        raise bad("backend", "'reference'", "None, 'torch' or 'triton' for a spread vocabulary")
    return choose_backend(backend, hidden, weight_rows, k)


def _check_rows(first_row: int, weight_rows: Tensor, vocab: int, group: Group) -> None:
    """Together the processes hold every row up to `vocab`, each once; all of them raise if not.

    Reading the answer waits for a GPU, so there each layout is checked once a group: later
    calls trust that when one process changes its rows, all do.
    """
    layout = (first_row, weight_rows.shape[0], vocab)
    seen = _LAYOUTS.setdefault(dist.group.WORLD if group is None else group, set())
    if weight_rows.is_cuda and layout in seen:
        return
    own = torch.tensor([[first_row], [weight_rows.shape[0]]], device=weight_rows.device)
    first, rows = _gathered(own, group).tolist()
    held = sorted((start, start + count) for start, count in zip(first, rows, strict=True) if count)
    ends = [0, *(end for _, end in held)]
    if [start for start, _ in held] != ends[:-1] or ends[-1] < vocab:
        raise bad("first_row", f"such that the processes hold the rows {held} (end excluded)",
                  f"such that they hold every row of the {vocab} once")
    seen.add(layout)


class _SumValue(torch.autograd.Function):
    """Sum over the group forward; backward every process already holds the whole gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None


class _SumGradient(torch.autograd.Function):
    """The same tensor forward; backward the sum of what every process found for its rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        total = grad_outputs[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def _gathered(tensor_NC: Tensor, group: Group) -> Tensor:
    """[N, P * C]: every process's columns side by side."""
    parts = [torch.empty_like(tensor_NC) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, tensor_NC.contiguous(), group=group)
    return torch.cat(parts, -1)
