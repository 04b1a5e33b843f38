"""Nearest neighbours by inner product: faiss where it is installed and pays, torch otherwise.

Both search exactly up to `FLAT_ROWS` vectors; beyond, faiss looks at a part of them (IVF) and finds
almost all. The thresholds are measured: `python -m benchmarks.neighbours`, docs/PERFORMANCE.md.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

TORCH_ROWS = 20_000  # up to here torch's matrix product is as good, and there is nothing to build
BASE_ROWS, QUERY_ROWS = 32_768, 1_024  # of one matrix product: 128 MiB of scores

Backend = Literal["auto", "torch", "faiss"]


@dataclass(frozen=True)
class Neighbours:
    """For Q queries the K vectors with the largest inner products, best first.

    `scores` float32 [Q, K]; `ids` int64 [Q, K], -1 (with a score of -inf) where there are fewer than K.
    """

    scores: np.ndarray
    ids: np.ndarray


class Index(Protocol):
    """Vectors that can be searched."""

    def search(self, queries: np.ndarray, k: int) -> Neighbours:
        """The k nearest of the vectors for queries, float32 [Q, D]. Raises ValueError for k < 1."""
        ...


def build_index(vectors: np.ndarray, device: str = "cpu", backend: Backend = "auto") -> Index:
    """An index over float32 [N, D], which may lie in a memory-mapped file. Order of rows = ids.

    auto takes faiss above `TORCH_ROWS` where it can be used, else torch.
    """
    if backend == "faiss" or (backend == "auto" and len(vectors) > TORCH_ROWS):
        from raft_fast.refinement import faiss_index

        if backend == "faiss" or faiss_index.usable():
            return faiss_index.FaissIndex(vectors, device)
    return TorchIndex(vectors, device)


class TorchIndex:
    """Exact search: matrix products in blocks, the best k of each merged."""

    def __init__(self, vectors: np.ndarray, device: str = "cpu") -> None:
        self.vectors, self.device = vectors, device

    def search(self, queries: np.ndarray, k: int) -> Neighbours:
        check_k(k)
        import torch

        found = [self._block(torch.from_numpy(np.ascontiguousarray(queries[at : at + QUERY_ROWS])), k)
                 for at in range(0, len(queries), QUERY_ROWS)]
        if not found:
            return Neighbours(np.zeros((0, k), np.float32), np.zeros((0, k), np.int64))
        scores, ids = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
        return padded(scores, ids, k)

    def _block(self, queries_QD, k):  # type: ignore[no-untyped-def]  # torch is imported late
        import torch

        queries_QD = queries_QD.to(self.device)
        scores = torch.empty(len(queries_QD), 0, device=self.device)
        ids = torch.empty(len(queries_QD), 0, dtype=torch.int64, device=self.device)
        for begin in range(0, len(self.vectors), BASE_ROWS):
            # copied: a read-only memory-mapped file is no tensor
            base_BD = torch.from_numpy(np.array(self.vectors[begin : begin + BASE_ROWS])).to(self.device)
            best, places = (queries_QD @ base_BD.T).topk(min(k, len(base_BD)))
            scores, ids = torch.cat([scores, best], 1), torch.cat([ids, places + begin], 1)
            scores, kept = scores.topk(min(k, scores.shape[1]))
            ids = ids.gather(1, kept)
        return scores, ids


def padded(scores: np.ndarray, ids: np.ndarray, k: int) -> Neighbours:
    """[Q, k] from fewer columns: score -inf and id -1 where there is nothing."""
    short = ((0, 0), (0, k - scores.shape[1]))
    return Neighbours(np.pad(scores.astype(np.float32), short, constant_values=-np.inf),
                      np.pad(ids.astype(np.int64), short, constant_values=-1))


def check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, is {k}")
