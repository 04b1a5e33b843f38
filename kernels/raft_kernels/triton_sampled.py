"""Sampled logits and their backward: tensor-core tiles where they suit, else plain gathers.

The gathers are float32 multiply-adds, so float32 inputs are exact IEEE. The weight gradient is
a segment sum: entries sorted by vocabulary id, one program a row of the weight, a fixed order of
additions, no atomics. In half precision the columns that most tokens name are summed by a dense
product instead (triton_hot.py)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_hot, triton_tiles

BLOCK_K, BLOCK_D = 16, 256


def sampled_logits(
    hidden_ND: Tensor, weight_VD: Tensor, ids_NK: Tensor, active_N: Tensor | None
) -> Tensor:
    """hidden[n] . weight[ids[n, k]] as [N, K]; rows not active are 0 and free."""
    if active_N is not None:  # ids of dropped rows enter no union
        ids_NK = torch.where(active_N.unsqueeze(-1), ids_NK, -1)
    if triton_tiles.suits(hidden_ND, weight_VD, ids_NK):
        return triton_tiles.logits(hidden_ND, weight_VD, ids_NK)
    n, k = ids_NK.shape
    out_NK = torch.empty(n, k, dtype=torch.float32, device=hidden_ND.device)
    if out_NK.numel():
        _logits[(n, triton.cdiv(k, BLOCK_K))](
            hidden_ND, weight_VD, ids_NK.contiguous(), out_NK, k, hidden_ND.shape[1],
            *hidden_ND.stride(), *weight_VD.stride(),
            BLOCK_K=BLOCK_K, BLOCK_D=BLOCK_D, num_warps=4,
        )
    return out_NK


def sampled_backward(
    grad_NK: Tensor, hidden_ND: Tensor, weight_VD: Tensor, ids_NK: Tensor, active_N: Tensor | None,
    need_hidden: bool, need_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """dHidden and dWeight in their inputs' dtypes, from the gradient of the sampled logits."""
    (n, k), d = ids_NK.shape, hidden_ND.shape[1]
    if active_N is not None:
        ids_NK = torch.where(active_N.unsqueeze(-1), ids_NK, -1)
    ids_NK = ids_NK.contiguous()
    grad_NK = torch.where(ids_NK < 0, 0.0, grad_NK)  # an exact 0 is what the kernels skip
    dhidden_ND = dweight_VD = None
    if need_hidden and triton_tiles.suits(hidden_ND, weight_VD, ids_NK):
        dhidden_ND = triton_tiles.grad_hidden(grad_NK, weight_VD, ids_NK)
    elif need_hidden:
        dhidden_ND = torch.zeros_like(hidden_ND, memory_format=torch.contiguous_format)
        if grad_NK.numel():
            # mixed dtypes need more registers than four warps have on sm_100
            mixed = hidden_ND.dtype != weight_VD.dtype
            _grad_hidden[(n, triton.cdiv(d, BLOCK_D))](
                grad_NK, weight_VD, ids_NK, dhidden_ND, k, d, *weight_VD.stride(),
                BLOCK_K=BLOCK_K, BLOCK_D=BLOCK_D, num_warps=8 if mixed else 4,
            )
    if need_weight:
        dweight_VD = grad_weight(grad_NK, hidden_ND, weight_VD, ids_NK)
    return dhidden_ND, dweight_VD


def grad_weight(grad_NK: Tensor, hidden_ND: Tensor, weight_VD: Tensor, ids_NK: Tensor) -> Tensor:
    """dWeight [V, D]: for each vocabulary row, the sum of gradient * hidden over its entries."""
    vocab, d = weight_VD.shape
    if not vocab:  # a process without rows
        return torch.zeros_like(weight_VD)
    by_id, order = ids_NK.reshape(-1).to(torch.int32).sort(stable=True)
    starts_V1 = torch.searchsorted(
        by_id, torch.arange(vocab + 1, device=by_id.device, dtype=torch.int32)
    )
    del by_id
    place_V1 = sums_CD = None
    hot = 0
    if triton_tiles.suits(hidden_ND, weight_VD, ids_NK):
        place_V1 = triton_hot.places(starts_V1, ids_NK.shape[1])
        sums_CD = triton_hot.sums(grad_NK, hidden_ND, ids_NK, place_V1)
        hot = sums_CD.shape[0]
    dweight_VD = torch.empty(vocab, d, dtype=weight_VD.dtype, device=weight_VD.device)
    _grad_weight[(vocab, triton.cdiv(d, BLOCK_D))](
        grad_NK, hidden_ND, order, starts_V1, place_V1, sums_CD, dweight_VD, ids_NK.shape[1], d,
        hot, *hidden_ND.stride(),
        HAS_HOT=hot > 0, BLOCK_E=BLOCK_K, BLOCK_D=BLOCK_D, num_warps=4,
    )
    return dweight_VD


@triton.jit(do_not_specialize=["k"])  # specialising on it gains nothing and compiles twice
def _logits(
    hidden_ptr,  # [N, D]
    weight_ptr,  # [V, D]
    ids_ptr,  # [N, K] int64
    out_ptr,  # [N, K] float32
    k, d, stride_hn, stride_hd, stride_wv, stride_wd, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    entry = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    ids = tl.load(ids_ptr + n * k + entry, mask=entry < k, other=-1)
    here = ids >= 0
    sums = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    if tl.max(ids, 0) >= 0:
        for start in range(0, d, BLOCK_D):
            i = (start + tl.arange(0, BLOCK_D)).to(tl.int64)
            h = tl.load(hidden_ptr + n * stride_hn + i * stride_hd, mask=i < d, other=0.0)
            w = tl.load(
                weight_ptr + ids[:, None] * stride_wv + i[None, :] * stride_wd,
                mask=here[:, None] & (i < d)[None, :],
                other=0.0,
            )
            sums += w.to(tl.float32) * h.to(tl.float32)[None, :]
    # 0 for a negative id even where the hidden state is not finite
    tl.store(out_ptr + n * k + entry, tl.where(here, tl.sum(sums, 1), 0.0), mask=entry < k)


@triton.jit(do_not_specialize=["k"])
def _grad_hidden(
    grad_ptr,  # [N, K] float32
    weight_ptr,  # [V, D]
    ids_ptr,  # [N, K] int64
    out_ptr,  # [N, D]
    k, d, stride_wv, stride_wd, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    i = (tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    sums = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    for start in range(0, k, BLOCK_K):
        entry = start + tl.arange(0, BLOCK_K)
        g = tl.load(grad_ptr + n * k + entry, mask=entry < k, other=0.0)
        ids = tl.load(ids_ptr + n * k + entry, mask=entry < k, other=0)
        w = tl.load(
            weight_ptr + ids[:, None] * stride_wv + i[None, :] * stride_wd,
            mask=(g != 0.0)[:, None] & (i < d)[None, :],
            other=0.0,
        )
        sums += g[:, None] * w.to(tl.float32)
    tl.store(out_ptr + n * d + i, tl.sum(sums, 0), mask=i < d)


@triton.jit(do_not_specialize=["k", "hot"])
def _grad_weight(
    grad_ptr,  # [N * K] float32
    hidden_ptr,  # [N, D]
    order_ptr,  # [N * K] int64: entries in the order of their vocabulary ids
    starts_ptr,  # [V + 1] int64: where each id's entries begin
    place_ptr,  # [V + 1] int32: each id's row of the sums, below `hot` where it has one
    sums_ptr,  # [hot, D] float32: what was summed already
    out_ptr,  # [V, D]
    k, d, hot, stride_hn, stride_hd, HAS_HOT: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    v = tl.program_id(0).to(tl.int64)
    i = (tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    first, last = tl.load(starts_ptr + v), tl.load(starts_ptr + v + 1)
    total = tl.zeros((BLOCK_D,), tl.float32)
    if HAS_HOT:
        place = tl.load(place_ptr + v).to(tl.int64)
        if place < hot:
            total = tl.load(sums_ptr + place * d + i, mask=i < d, other=0.0)
            first = last
    sums = tl.zeros((BLOCK_E, BLOCK_D), tl.float32)
    for start in range(first, last, BLOCK_E):
        at = start + tl.arange(0, BLOCK_E)
        entry = tl.load(order_ptr + at, mask=at < last, other=0)
        g = tl.load(grad_ptr + entry, mask=at < last, other=0.0)
        h = tl.load(
            hidden_ptr + (entry // k)[:, None] * stride_hn + i[None, :] * stride_hd,
            mask=(g != 0.0)[:, None] & (i < d)[None, :],
            other=0.0,
        )
        sums += g[:, None] * h.to(tl.float32)
    tl.store(out_ptr + v * d + i, total + tl.sum(sums, 0), mask=i < d)
