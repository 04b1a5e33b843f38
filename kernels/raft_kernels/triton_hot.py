"""The weight gradient of columns that many tokens name: one dense product instead of gathers.

In real text a few thousand columns hold most of all entries (dev/PERFORMANCE.md counts them). A
gathered entry costs D numbers of traffic, a column of a dense product N multiply-adds a number, and
from about 45 of 8192 tokens on the product is cheaper. How many columns are taken follows from shapes, which
ones from the counts, on the device: nothing waits for the GPU."""

import torch
from torch import Tensor

from .triton_select import gemm

HOT = 4096  # columns at most: their sums take HOT x D float32
DENSE_BYTES = 64 << 20  # of float32 gradients spread over the hot columns at a time
PLACE_BYTES = 32 << 20  # of their int64 places there


def columns(vocab: int, k: int) -> int:
    """How many columns go into the product: 8 for each place in the top K; beyond that hits are rare."""
    return min(vocab, 8 * k, HOT)


def places(starts_V1: Tensor, k: int) -> Tensor:
    """[V + 1] int32: each id's column in the product, or `columns` for the cold and the last."""
    vocab = starts_V1.shape[0] - 1
    hot = columns(vocab, k)
    hottest_C = starts_V1.diff().sort(descending=True, stable=True).indices[:hot]
    place_V1 = torch.full((vocab + 1,), hot, dtype=torch.int32, device=starts_V1.device)
    return place_V1.scatter_(
        0, hottest_C, torch.arange(hot, dtype=torch.int32, device=starts_V1.device))


def sums(grad_NK: Tensor, hidden_ND: Tensor, ids_NK: Tensor, place_V1: Tensor) -> Tensor:
    """[C, D] float32: gradient * hidden summed over the tokens, for each hot column.

    Gradients are rounded to the dtype of hidden, scaled by their column's largest so that float16
    does not lose them."""
    hot = columns(place_V1.shape[0] - 1, ids_NK.shape[1])
    (n, d), step = hidden_ND.shape, tokens_at_once(hot, ids_NK.shape[1])
    sums_CD = torch.zeros(hot, d, dtype=torch.float32, device=hidden_ND.device)
    for first in range(0, n, step):
        rows = slice(first, first + step)
        half_nC, scale_C = _spread(grad_NK[rows], ids_NK[rows], place_V1, hot, hidden_ND.dtype)
        # a dropped token has gradient 0, but 0 * NaN would reach every column
        dropped_n1 = (ids_NK[rows] < 0).all(-1, keepdim=True)
        hidden_nD = torch.where(dropped_n1, 0.0, hidden_ND[rows])
        sums_CD.addcmul_(gemm(half_nC.T, hidden_nD.T), scale_C.unsqueeze(-1))
        del half_nC, hidden_nD  # before the next ones are made
    return sums_CD


def tokens_at_once(hot: int, k: int) -> int:
    """Tokens in one product: as many as both bounds allow, a multiple of 64 for the tensor cores."""
    tokens = min(DENSE_BYTES // (4 * max(hot, 1)), PLACE_BYTES // (8 * k))
    return max(64, tokens // 64 * 64)


def _spread(
    grad_nK: Tensor, ids_nK: Tensor, place_V1: Tensor, hot: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """[n, C] gradients of the hot columns, each divided by its column's largest, and those [C]."""
    place_nK = place_V1[torch.where(ids_nK < 0, place_V1.shape[0] - 1, ids_nK)].long()
    dense_nC = torch.zeros(place_nK.shape[0], hot + 1, device=grad_nK.device)
    dense_nC = dense_nC.scatter_(1, place_nK, grad_nK)[:, :hot]  # the last takes the cold
    smallest_C, largest_C = dense_nC.aminmax(dim=0)
    scale_C = torch.maximum(largest_C, -smallest_C)
    scale_C = torch.where(scale_C == 0, 1.0, scale_C)
    return dense_nC.div_(scale_C).to(dtype), scale_C
