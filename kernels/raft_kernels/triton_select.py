"""Streaming top-K and log-sum-exp: library GEMMs in vocabulary chunks, one kernel that filters.

A chunk of logits is made by the GEMM library in a bounded float32 buffer; `_filter` then walks it
row by row, keeping an online maximum and sum of exponentials, and appends what beats the row's
threshold to the row's candidates. When those are full, the K largest stay and the threshold rises
to the smallest of them: exact whatever the data, without atomics. Chunks take every R-th column,
so that the first is a sample of the whole vocabulary and the threshold is good at once.

A candidate is one int64, (order-preserving bits of the float32 logit) << ID_BITS | inverted id:
larger key = larger logit, then lower id; NaN above everything. All keys of a row differ."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BUFFER_BYTES = 64 << 20  # float32 logits of one chunk: about an H200's L2 cache
TOKENS = 2048  # rows of one chunk: enough for an efficient GEMM
BLOCK = 1024  # columns filtered at once


def select(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, k: int, temperature: float,
    logit_scale: float, softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The K largest logits a token, best first: ids [N, K], logits [N, K], log-sum-exp [N]."""
    n, vocab = hidden_ND.shape[0], weight_VD.shape[0]
    bias_V = None if bias_V is None else bias_V.contiguous()
    ids_NK = torch.empty(n, k, dtype=torch.int64, device=hidden_ND.device)
    top_NK = torch.empty(n, k, dtype=torch.float32, device=hidden_ND.device)
    log_sum_N = torch.empty(n, dtype=torch.float32, device=hidden_ND.device)
    rows = min(TOKENS, n)
    interleave = chunks(vocab, rows, hidden_ND, weight_VD)
    capacity = candidates(k)
    keys_rC = torch.empty(rows, capacity, dtype=torch.int64, device=hidden_ND.device)
    for first in range(0, n, TOKENS):
        hidden_rD = hidden_ND[first : first + TOKENS]
        r = hidden_rD.shape[0]
        state = (
            torch.full((r,), float("-inf"), device=hidden_ND.device),  # maximum
            torch.zeros(r, device=hidden_ND.device),  # sum of exponentials below it
            torch.zeros(r, dtype=torch.int32, device=hidden_ND.device),  # candidates held
            torch.full((r,), -1, dtype=torch.int64, device=hidden_ND.device),  # threshold
        )
        scalars = (k, 1.0 / temperature, logit_scale, softcap or 1.0)
        sizes = dict(ID_BITS=(vocab - 1).bit_length(), CAPACITY=capacity)
        for offset in range(interleave):
            logits_rc = gemm(hidden_rD, weight_VD[offset::interleave])
            _filter[(r,)](
                logits_rc, bias_V, keys_rC, *state, logits_rc.shape[1], logits_rc.stride(0),
                offset, interleave, *scalars,
                HAS_BIAS=bias_V is not None, HAS_SOFTCAP=softcap is not None, BLOCK=BLOCK,
                **sizes, num_warps=warps(capacity),
            )
            del logits_rc  # the next chunk takes its place: one buffer, warm in the cache
        _finish[(r,)](
            keys_rC, *state[1:3], ids_NK[first:], top_NK[first:], log_sum_N[first:], k,
            K_PADDED=max(2, triton.next_power_of_2(k)), **sizes, num_warps=warps(capacity),
        )
    return ids_NK, top_NK, log_sum_N


def chunks(vocab: int, rows: int, hidden_ND: Tensor, weight_VD: Tensor) -> int:
    """Chunks of the vocabulary, so that the logits of one (or its upcast weights) fit the buffer."""
    upcast = hidden_ND.dtype != weight_VD.dtype
    columns = max(rows, weight_VD.shape[1] if upcast else 0)
    return max(1, -(-vocab * columns * 4 // BUFFER_BYTES))


def candidates(k: int) -> int:
    """Places for a row's candidates: the K best and at least one block of newcomers."""
    return int(triton.next_power_of_2(k + BLOCK))


def warps(capacity: int) -> int:
    """16 candidates a thread: they and their comparisons fit in registers."""
    return min(max(capacity // 512, 4), 16)


def gemm(hidden_rD: Tensor, weight_cD: Tensor) -> Tensor:
    """hidden @ weight.T in float32; float32 inputs in IEEE arithmetic unless TF32 was asked for."""
    if hidden_rD.dtype != weight_cD.dtype or hidden_rD.device.type == "cpu":
        return hidden_rD.float() @ weight_cD.float().T
    if hidden_rD.dtype == torch.float32:
        return hidden_rD @ weight_cD.T
    return torch.mm(hidden_rD, weight_cD.T, out_dtype=torch.float32)


@triton.jit
def _tanh(y):
    """tanh by exp; near 0, where 1 - exp(-2y) would cancel, by its series."""
    square = y * y
    series = y * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0)))
    t = tl.exp(-2.0 * tl.abs(y))
    rational = (1.0 - t) / (1.0 + t)
    return tl.where(square < 0.0025, series, tl.where(y < 0, -rational, rational))


@triton.jit
def _pack(x, ids, ID_BITS: tl.constexpr):
    """Order-preserving key: NaN is one value above infinity, -0.0 equals 0.0."""
    x = tl.where(x == 0.0, 0.0, x)
    bits = tl.where(x != x, 0x7FC00000, x.to(tl.int32, bitcast=True)).to(tl.int64)
    ordered = tl.where(bits < 0, -1 - bits, bits + 0x80000000)
    return (ordered << ID_BITS) | ((1 << ID_BITS) - 1 - ids)


@triton.jit
def _unpack(keys, ID_BITS: tl.constexpr):
    ids = (1 << ID_BITS) - 1 - (keys & ((1 << ID_BITS) - 1))
    ordered = keys >> ID_BITS
    bits = tl.where(ordered >= 0x80000000, ordered - 0x80000000, -1 - ordered)
    return bits.to(tl.int32).to(tl.float32, bitcast=True), ids


@triton.jit
def _keep_k_largest(keys_ptr, count, k, ID_BITS: tl.constexpr, CAPACITY: tl.constexpr):
    """Move the K largest of `count` >= K keys to the front; returns the smallest of them.

    The K-th largest is found bit by bit from the top: the largest number that K keys reach."""
    tl.debug_barrier()  # the keys were stored by other threads
    place = tl.arange(0, CAPACITY)
    keys = tl.load(keys_ptr + place, mask=place < count, other=-1)
    kth = tl.full((), 0, tl.int64)
    for step in range(0, ID_BITS + 32):
        trial = kth | (tl.full((), 1, tl.int64) << (ID_BITS + 31 - step))
        reached = tl.sum((keys >= trial).to(tl.int32), 0)
        kth = tl.where(reached >= k, trial, kth)
    kept = keys >= kth
    to = tl.cumsum(kept.to(tl.int32), 0) - 1
    tl.debug_barrier()
    tl.store(keys_ptr + to, keys, mask=kept)
    tl.debug_barrier()
    return kth


# not specialised: they change from chunk to chunk, or no load is aligned by them
@triton.jit(do_not_specialize=["first_id", "columns", "id_step", "k"])
def _filter(
    logits_ptr,  # [r, columns] float32
    bias_ptr,  # [V]
    keys_ptr,  # [r, CAPACITY] int64
    max_ptr,  # [r] float32
    sum_ptr,  # [r] float32
    count_ptr,  # [r] int32
    threshold_ptr,  # [r] int64
    columns, stride, first_id, id_step, k, inverse_temperature, logit_scale, softcap,
    HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, BLOCK: tl.constexpr, ID_BITS: tl.constexpr,
    CAPACITY: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    keys_ptr += row * CAPACITY
    best, total = tl.load(max_ptr + row), tl.load(sum_ptr + row)
    count, threshold = tl.load(count_ptr + row), tl.load(threshold_ptr + row)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < columns
        ids = first_id + column.to(tl.int64) * id_step
        x = tl.load(logits_ptr + row * stride + column, mask=inside, other=float("-inf"))
        if HAS_BIAS:
            x += tl.load(bias_ptr + ids, mask=inside, other=0.0).to(tl.float32)
        x *= logit_scale
        if HAS_SOFTCAP:
            # tanh(inf) = 1 would turn an overflow into a plausible logit
            x = tl.where(tl.abs(x) == float("inf"), float("nan"), x)
            x = softcap * _tanh(x / softcap)
        x = tl.where(inside, x, float("-inf"))
        new_best = tl.maximum(best, tl.max(x, 0))
        # -inf - -inf is NaN: until something finite was seen, measure from 0
        base = tl.where(new_best == float("-inf"), 0.0, new_best)
        total *= tl.exp((best - base) * inverse_temperature)
        total += tl.sum(tl.exp((x - base) * inverse_temperature), 0)
        best = new_best
        keys = _pack(x, ids, ID_BITS)
        keep = inside & (keys > threshold)
        kept = tl.sum(keep.to(tl.int32), 0)
        if count + kept > CAPACITY:
            threshold = _keep_k_largest(keys_ptr, count, k, ID_BITS, CAPACITY)
            count = k
            keep = keep & (keys > threshold)
            kept = tl.sum(keep.to(tl.int32), 0)
        to = count + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(keys_ptr + to, keys, mask=keep)
        count += kept
    # a threshold for the next chunk, worth its cost only while candidates are many
    if count > (CAPACITY + k) // 2:
        threshold = _keep_k_largest(keys_ptr, count, k, ID_BITS, CAPACITY)
        count = k
    tl.store(max_ptr + row, best)
    tl.store(sum_ptr + row, total)
    tl.store(count_ptr + row, count)
    tl.store(threshold_ptr + row, threshold)


@triton.jit(do_not_specialize=["k"])
def _finish(
    keys_ptr,  # [r, CAPACITY] int64
    sum_ptr,  # [r] float32
    count_ptr,  # [r] int32
    ids_ptr,  # [r, K] int64
    top_ptr,  # [r, K] float32
    log_sum_ptr,  # [r] float32
    k, K_PADDED: tl.constexpr, ID_BITS: tl.constexpr, CAPACITY: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    keys_ptr += row * CAPACITY
    _keep_k_largest(keys_ptr, tl.load(count_ptr + row), k, ID_BITS, CAPACITY)
    place = tl.arange(0, K_PADDED)
    keys = tl.load(keys_ptr + place, mask=place < k, other=-1)
    x, ids = _unpack(tl.sort(keys, descending=True), ID_BITS)
    tl.store(ids_ptr + row * k + place, ids, mask=place < k)
    tl.store(top_ptr + row * k + place, x, mask=place < k)
    tl.store(log_sum_ptr + row, tl.log(tl.load(sum_ptr + row)))
