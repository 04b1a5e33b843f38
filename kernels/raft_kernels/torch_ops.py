"""The three operations with library calls: dense products in slices, sparse products on CSR.

Runs on any device. No tensor here has N x V elements, and none but the weight gradient has V x D."""

import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from .checks import compute_dtype

# One slice of logits: large enough for an efficient product, small beside a model. Weight slices
# bound the float32 copy of a bf16/fp16 (or strided) weight.
LOGIT_SLICE_BYTES = 32 << 20
WEIGHT_SLICE_BYTES = 16 << 20

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


def select(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, k: int, temperature: float,
    logit_scale: float, softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The K largest logits a token, best first: ids [N, K], logits [N, K], log-sum-exp [N]."""
    dtype = compute_dtype(hidden_ND, weight_VD)
    n, vocab = hidden_ND.shape[0], weight_VD.shape[0]
    rows = max(1, LOGIT_SLICE_BYTES // (vocab * dtype.itemsize))
    ids_NK = torch.empty(n, k, dtype=torch.int64, device=hidden_ND.device)
    top_NK = torch.empty(n, k, dtype=dtype, device=hidden_ND.device)
    log_sum_N = torch.empty(n, dtype=dtype, device=hidden_ND.device)
    logits_rV = torch.empty(min(rows, n), vocab, dtype=dtype, device=hidden_ND.device)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        slice_rV = logits_rV[: stop - start]
        hidden_rD = hidden_ND[start:stop].to(dtype)
        for first, last, weight_vD in _weight_slices(weight_VD, dtype):
            torch.mm(hidden_rD, weight_vD.T, out=slice_rV[:, first:last])
        if bias_V is not None:
            slice_rV += bias_V.to(dtype)
        if logit_scale != 1.0:
            slice_rV *= logit_scale
        if softcap is not None:
            torch.nan_to_num_(slice_rV, math.nan, math.nan, math.nan)  # tanh(inf) is 1
            slice_rV.div_(softcap).tanh_().mul_(softcap)
        top_NK[start:stop], ids_NK[start:stop] = _topk_lower_id_first(slice_rV, k)
        # In place, so that the slice is the only thing of its size.
        slice_rV.sub_(top_NK[start:stop, :1]).div_(temperature).exp_()
        log_sum_N[start:stop] = slice_rV.sum(-1).log()
    return ids_NK, top_NK, log_sum_N


def sampled_logits(
    hidden_ND: Tensor, weight_VD: Tensor, ids_NK: Tensor, active_N: Tensor | None
) -> Tensor:
    """hidden[n] . weight[ids[n, k]] as [N, K]; rows not active are 0 and free."""
    dtype = compute_dtype(hidden_ND, weight_VD)
    rows = _active_rows(active_N)
    hidden_nD, ids_nK = _take(hidden_ND, rows).to(dtype).contiguous(), _take(ids_NK, rows)
    out_nK = torch.zeros(ids_nK.shape, dtype=dtype, device=ids_nK.device)
    if out_nK.numel() and weight_VD.shape[0]:
        zeros = torch.zeros_like(out_nK)
        for first, last, weight_vD in _weight_slices(weight_VD, dtype):
            inside_nK, pattern = _csr(ids_nK, zeros, first, last, weight_VD.shape[0])
            products = torch.sparse.sampled_addmm(pattern, hidden_nD, weight_vD.T, beta=0.0)
            if inside_nK is None:
                out_nK = products.values().view(ids_nK.shape)
            else:
                out_nK[inside_nK] = products.values()
    return _put_back(out_nK, rows, ids_NK.shape[0])


def sampled_backward(
    grad_NK: Tensor, hidden_ND: Tensor, weight_VD: Tensor, ids_NK: Tensor, active_N: Tensor | None,
    need_hidden: bool, need_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """dHidden = G @ W, dWeight = G^T @ hidden, with G the sparse [N, V] gradient of the logits."""
    rows = _active_rows(active_N)
    hidden_nD, grad_nK, ids_nK = (_take(t, rows) for t in (hidden_ND, grad_NK, ids_NK))
    dhidden = dweight = None
    if need_hidden:
        dhidden_nD = _grad_hidden(grad_nK, weight_VD, ids_nK)
        dhidden = _put_back(dhidden_nD, rows, hidden_ND.shape[0]).to(hidden_ND.dtype)
    if need_weight:
        dweight = _grad_weight(grad_nK, hidden_nD, weight_VD, ids_nK)
    return dhidden, dweight


def _grad_hidden(grad_nK: Tensor, weight_VD: Tensor, ids_nK: Tensor) -> Tensor:
    shape = (grad_nK.shape[0], weight_VD.shape[1])
    dhidden_nD = torch.zeros(shape, dtype=grad_nK.dtype, device=grad_nK.device)
    if grad_nK.numel() and weight_VD.shape[0]:
        for first, last, weight_vD in _weight_slices(weight_VD, grad_nK.dtype):
            _, grad_csr = _csr(ids_nK, grad_nK, first, last, weight_VD.shape[0])
            dhidden_nD.addmm_(grad_csr, weight_vD)
    return dhidden_nD


def _grad_weight(
    grad_nK: Tensor, hidden_nD: Tensor, weight_VD: Tensor, ids_nK: Tensor
) -> Tensor:
    """Entries sorted by vocabulary id are G^T in CSR: each weight row is one segment's sum."""
    dtype, vocab, (n, k) = grad_nK.dtype, weight_VD.shape[0], ids_nK.shape
    if not (grad_nK.numel() and vocab):
        return torch.zeros_like(weight_VD, memory_format=torch.contiguous_format)
    index = _index_dtype(ids_nK, vocab)
    by_id, order = ids_nK.reshape(-1).to(index).sort(stable=True)
    starts = torch.searchsorted(by_id, torch.arange(vocab + 1, device=by_id.device, dtype=index))
    tokens = order.div(k, rounding_mode="floor").to(index)
    values = grad_nK.reshape(-1)[order]
    hidden_nD = hidden_nD.to(dtype).contiguous()

    def rows(first: int, last: int) -> Tensor:
        lo, hi = int(starts[first]), int(starts[last])
        crow = (starts[first : last + 1] - lo).to(index)
        return _csr_tensor(crow, tokens[lo:hi], values[lo:hi], (last - first, n))

    if weight_VD.dtype == dtype:
        dweight_VD = torch.zeros_like(weight_VD, memory_format=torch.contiguous_format)
        return dweight_VD.addmm_(rows(0, vocab), hidden_nD)
    dweight_VD = torch.empty(weight_VD.shape, dtype=weight_VD.dtype, device=weight_VD.device)
    for first, last in _slices(vocab, weight_VD.shape[1] * dtype.itemsize):
        dweight_VD[first:last] = rows(first, last) @ hidden_nD
    return dweight_VD


def _topk_lower_id_first(logits_rV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """torch.topk with a rule for ties: of equal logits the lower id is kept and comes first."""
    vocab = logits_rV.shape[1]
    top_rK, ids_rK = logits_rV.topk(min(k + 1, vocab), dim=-1)
    if k < vocab:  # one more than asked for shows the rows where a tie straddles the cut
        tied_r = (top_rK[:, k - 1] == top_rK[:, k]) | top_rK[:, k].isnan()
        ids_rK = ids_rK[:, :k].contiguous()
        if tied_r.any():
            ids_rK[tied_r] = _cut_through_tie(logits_rV[tied_r], top_rK[tied_r, k - 1 : k], k)
    ids_rK = ids_rK.sort(-1).values
    top_rK, order_rK = logits_rV.gather(-1, ids_rK).sort(dim=-1, descending=True, stable=True)
    return top_rK, ids_rK.gather(-1, order_rK)


def _cut_through_tie(logits_tV: Tensor, cut_t1: Tensor, k: int) -> Tensor:
    """The ids above the cut and, of those at the cut, the lowest, for rows with a tie there.

    NaN equals NaN and is above everything, as where PyTorch sorts."""
    nan_tV, nan_t1 = logits_tV.isnan(), cut_t1.isnan()
    above_tV = (logits_tV > cut_t1) | (nan_tV & ~nan_t1)
    equal_tV = (logits_tV == cut_t1) | (nan_tV & nan_t1)
    room_t1 = k - above_tV.sum(-1, keepdim=True)
    keep_tV = above_tV | (equal_tV & (equal_tV.cumsum(-1) <= room_t1))
    return keep_tV.nonzero()[:, 1].view(-1, k)


def _slices(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    step = max(1, WEIGHT_SLICE_BYTES // row_bytes)
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def _weight_slices(weight_VD: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, int, Tensor]]:
    """The weight in `dtype`, whole where no copy is needed, else in slices of bounded size."""
    vocab = weight_VD.shape[0]
    if weight_VD.dtype == dtype and weight_VD.is_contiguous():
        yield 0, vocab, weight_VD
        return
    for first, last in _slices(vocab, weight_VD.shape[1] * dtype.itemsize):
        yield first, last, weight_VD[first:last].to(dtype).contiguous()


def _csr(
    ids_nK: Tensor, values_nK: Tensor, first: int, last: int, vocab: int
) -> tuple[Tensor | None, Tensor]:
    """The [n, last - first] sparse matrix of the entries whose id lies in [first, last).

    Also returns where those entries are in [n, K], or None where that is everywhere."""
    (n, k), index = ids_nK.shape, _index_dtype(ids_nK, vocab)
    if (first, last) == (0, vocab):
        crow = torch.arange(0, n * k + 1, k, device=ids_nK.device, dtype=index)
        columns = ids_nK.reshape(-1).to(index)
        return None, _csr_tensor(crow, columns, values_nK.reshape(-1), (n, vocab))
    inside_nK = (ids_nK >= first) & (ids_nK < last)
    crow = torch.zeros(n + 1, device=ids_nK.device, dtype=index)
    crow[1:] = inside_nK.sum(-1).cumsum(0)
    columns = (ids_nK[inside_nK] - first).to(index)
    return inside_nK, _csr_tensor(crow, columns, values_nK[inside_nK], (n, last - first))


def _csr_tensor(crow: Tensor, col: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(crow, col, values, size=size, check_invariants=False)


def _index_dtype(ids_nK: Tensor, vocab: int) -> torch.dtype:
    """32-bit indices halve the index traffic wherever they can count the entries."""
    return torch.int32 if max(ids_nK.numel(), vocab) < 2**31 else torch.int64


def _active_rows(active_N: Tensor | None) -> Tensor | None:
    """Indices of the rows to work on; None for all of them."""
    if active_N is None:
        return None
    rows = active_N.nonzero().squeeze(-1)
    return None if rows.numel() == active_N.numel() else rows


def _take(tensor_N: Tensor, rows: Tensor | None) -> Tensor:
    return tensor_N if rows is None else tensor_N[rows]


def _put_back(tensor_n: Tensor, rows: Tensor | None, n: int) -> Tensor:
    if rows is None:
        return tensor_n
    out = torch.zeros(n, *tensor_n.shape[1:], dtype=tensor_n.dtype, device=tensor_n.device)
    out[rows] = tensor_n
    return out
