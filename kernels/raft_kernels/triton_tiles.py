"""Sampled products on tensor cores: 64 neighbouring tokens load the union of their columns once.

Neighbouring tokens of real text name mostly the same columns (dev/PERFORMANCE.md has the
figures), so a tile's union is a quarter of what its tokens list one by one, and the product of
the tile with its union is a small dense one. Of it each token keeps its own K entries: `plan`
gives every id its place in its tile's union. Sizes depend on shapes only, so nothing waits for
the GPU: a tile's blocks beyond its own union return at once."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 64  # tokens: the rows of one tensor-core product
BLOCK_U, BLOCK_D = 64, 64  # union columns and hidden dimensions at once
DENSE_BYTES = 128 << 20  # of the tiles' dense products held at a time


class Plan(NamedTuple):
    """Where the ids of some tiles' tokens lie in their tiles' unions."""

    union_tU: Tensor  # [t, U] int64 ids, ascending, valid up to counts_t  # noqa: N815
    counts_t: Tensor  # [t] int32
    slots_tS: Tensor  # [t, TILE * K] int64 places in the tile's union  # noqa: N815


def suits(hidden_ND: Tensor, weight_VD: Tensor, ids_NK: Tensor) -> bool:
    """Half precision (float32 stays IEEE, on multiply-adds), one full tile, rows for wide loads."""
    half = hidden_ND.dtype in (torch.bfloat16, torch.float16)
    return half and hidden_ND.dtype == weight_VD.dtype and _wide_rows(hidden_ND) \
        and _wide_rows(weight_VD) and ids_NK.shape[0] >= TILE and weight_VD.shape[0] > 0


def _wide_rows(tensor: Tensor) -> bool:
    """Contiguous rows of 16 n numbers that begin at multiples of 16: else the tiles' registers spill."""
    sizes = (tensor.shape[1], tensor.stride(0), tensor.storage_offset())
    return tensor.stride(1) == 1 and all(size % 16 == 0 for size in sizes)


def union_width(vocab: int, k: int) -> int:
    """Places in a tile's union: every id it can list, one for the negative ones, aligned rows."""
    return int(triton.cdiv(min(vocab, TILE * k) + 1, 16)) * 16


def tokens_at_once(vocab: int, k: int, itemsize: int) -> int:
    """As many tiles as fit DENSE_BYTES; at K = 2048 a single one of float32 takes 32 MiB.

    Each takes its dense product and, while it is planned, 9 bytes for every id of the vocabulary."""
    dense = TILE * min(vocab, TILE * k) * itemsize
    return max(1, DENSE_BYTES // max(dense, 9 * vocab)) * TILE


def plan(ids_nK: Tensor, vocab: int) -> Plan:
    """The unions of `n / TILE` tiles, without negative ids and the padding of the last tile."""
    n, k = ids_nK.shape
    tiles = triton.cdiv(n, TILE)
    if n < tiles * TILE:
        ids_nK = torch.nn.functional.pad(ids_nK, (0, 0, 0, tiles * TILE - n), value=-1)
    ids_tS = ids_nK.reshape(tiles, TILE * k)
    # negative ids share one more column, the last: its place is beyond every count
    ids_tS = torch.where(ids_tS < 0, vocab, ids_tS)
    named_tV = torch.zeros(tiles, vocab + 1, dtype=torch.uint8, device=ids_nK.device)
    named_tV.scatter_(1, ids_tS, 1)
    place_tV = named_tV.cumsum(1, dtype=torch.int32)
    slots_tS = place_tV.gather(1, ids_tS).long() - 1
    width = union_width(vocab, k)
    union_tU = torch.zeros(tiles, width, dtype=torch.int64, device=ids_nK.device)
    union_tU.scatter_(1, slots_tS, ids_tS)  # equal slots hold equal ids: any order is the same
    return Plan(union_tU, place_tV[:, vocab - 1].contiguous(), slots_tS)


def logits(hidden_ND: Tensor, weight_VD: Tensor, ids_NK: Tensor) -> Tensor:
    """hidden[n] . weight[ids[n, k]] as [N, K] float32."""
    (n, d), k = hidden_ND.shape, ids_NK.shape[1]
    out_NK = torch.empty(n, k, dtype=torch.float32, device=hidden_ND.device)
    step = tokens_at_once(weight_VD.shape[0], k, 4)
    for first in range(0, n, step):
        hidden_nD, ids_nK = hidden_ND[first : first + step], ids_NK[first : first + step]
        tiles = plan(ids_nK, weight_VD.shape[0])
        t, width = tiles.union_tU.shape
        dense_tTU = torch.empty(t, TILE, width, dtype=torch.float32, device=hidden_ND.device)
        _tile_logits[(t, triton.cdiv(width, BLOCK_U))](
            hidden_nD, weight_VD, tiles.union_tU, tiles.counts_t, dense_tTU,
            hidden_nD.shape[0], width, d, hidden_ND.stride(0), weight_VD.stride(0),
            TILE=TILE, BLOCK_U=BLOCK_U, BLOCK_D=BLOCK_D, num_warps=4, num_stages=3,
        )
        slots_tTK = tiles.slots_tS.view(t, TILE, k)
        chunk_nK = dense_tTU.gather(2, slots_tTK).view(-1, k)[: ids_nK.shape[0]]
        out_NK[first : first + step] = torch.where(ids_nK < 0, 0.0, chunk_nK)
        del dense_tTU  # before the next one is made
    return out_NK


def grad_hidden(grad_NK: Tensor, weight_VD: Tensor, ids_NK: Tensor) -> Tensor:
    """dHidden [N, D] in the weight's dtype; each row's gradients are scaled to at most 1 for it."""
    (n, k), (vocab, d) = ids_NK.shape, weight_VD.shape
    out_ND = torch.empty(n, d, dtype=weight_VD.dtype, device=weight_VD.device)
    # float16 would lose gradients of 1e-6; a row of zeros divides by 1
    scale_N = grad_NK.abs().amax(-1)
    scale_N = torch.where(scale_N == 0, 1.0, scale_N)
    step = tokens_at_once(vocab, k, weight_VD.element_size())
    for first in range(0, n, step):
        rows = slice(first, min(first + step, n))
        tiles = plan(ids_NK[rows], vocab)
        t, width = tiles.union_tU.shape
        scaled_nK = (grad_NK[rows] / scale_N[rows, None]).to(weight_VD.dtype)
        padded_tTK = torch.zeros(t * TILE, k, dtype=weight_VD.dtype, device=weight_VD.device)
        padded_tTK[: scaled_nK.shape[0]] = scaled_nK
        dense_tTU = torch.zeros(t, TILE, width, dtype=weight_VD.dtype, device=weight_VD.device)
        dense_tTU.scatter_(2, tiles.slots_tS.view(t, TILE, k), padded_tTK.view(t, TILE, k))
        _tile_grad_hidden[(t, triton.cdiv(d, BLOCK_D))](
            dense_tTU, weight_VD, tiles.union_tU, tiles.counts_t, scale_N[rows], out_ND[rows],
            scaled_nK.shape[0], width, d, weight_VD.stride(0),
            TILE=TILE, BLOCK_U=BLOCK_U, BLOCK_D=BLOCK_D, num_warps=4, num_stages=3,
        )
        del dense_tTU  # before the next one is made
    return out_ND


@triton.jit(do_not_specialize=["n"])
def _tile_logits(
    hidden_ptr,  # [n, D]
    weight_ptr,  # [V, D]
    union_ptr,  # [t, U] int64
    counts_ptr,  # [t] int32
    out_ptr,  # [t, TILE, U] float32
    n, width, d, stride_hn, stride_wv, TILE: tl.constexpr, BLOCK_U: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tile = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1) * BLOCK_U + tl.arange(0, BLOCK_U)
    count = tl.load(counts_ptr + tile)
    if tl.program_id(1) * BLOCK_U < count:
        token = tile * TILE + tl.arange(0, TILE)
        ids = tl.load(union_ptr + tile * width + slot, mask=slot < count, other=0)
        sums = tl.zeros((TILE, BLOCK_U), tl.float32)
        for start in range(0, d, BLOCK_D):
            i = start + tl.arange(0, BLOCK_D)
            h = tl.load(
                hidden_ptr + token[:, None] * stride_hn + i[None, :],
                mask=(token < n)[:, None] & (i < d)[None, :],
                other=0.0,
            )
            w = tl.load(
                weight_ptr + ids[:, None] * stride_wv + i[None, :],
                mask=(slot < count)[:, None] & (i < d)[None, :],
                other=0.0,
            )
            sums = tl.dot(h, tl.trans(w), sums)
        row = tile * TILE + tl.arange(0, TILE)
        tl.store(out_ptr + row[:, None] * width + slot[None, :], sums,
                 mask=(slot < count)[None, :])


@triton.jit(do_not_specialize=["n"])
def _tile_grad_hidden(
    grad_ptr,  # [t, TILE, U] in the weight's dtype
    weight_ptr,  # [V, D]
    union_ptr,  # [t, U] int64
    counts_ptr,  # [t] int32
    scale_ptr,  # [n] float32
    out_ptr,  # [n, D]
    n, width, d, stride_wv, TILE: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_D: tl.constexpr,
):
    tile = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    token = tile * TILE + tl.arange(0, TILE)
    count = tl.load(counts_ptr + tile)
    sums = tl.zeros((TILE, BLOCK_D), tl.float32)
    for start in range(0, count, BLOCK_U):
        slot = start + tl.arange(0, BLOCK_U)
        ids = tl.load(union_ptr + tile * width + slot, mask=slot < count, other=0)
        g = tl.load(
            grad_ptr + token[:, None] * width + slot[None, :],
            mask=(slot < count)[None, :],
            other=0.0,
        )
        w = tl.load(
            weight_ptr + ids[:, None] * stride_wv + i[None, :],
            mask=(slot < count)[:, None] & (i < d)[None, :],
            other=0.0,
        )
        sums = tl.dot(g, w, sums)
    sums *= tl.load(scale_ptr + token, mask=token < n, other=0.0)[:, None]
    tl.store(
        out_ptr + token[:, None] * d + i[None, :],
        sums,
        mask=(token < n)[:, None] & (i < d)[None, :],
    )
