"""Search by faiss: exact to a size, in parts (IVF) beyond; on a GPU where both sides have one."""

import functools
import subprocess
import sys
import warnings
from importlib import metadata, util
from typing import Any

import numpy as np

from raft_fast.errors import require
from raft_fast.refinement.neighbours import Neighbours, check_k, padded

FLAT_ROWS = 500_000  # all against all takes two cores half an hour
FLAT_ROWS_GPU = 4_000_000  # counted, not measured
GPU_K = 2048  # the most neighbours faiss finds on a GPU
TRAIN_PER_LIST = 48  # vectors that place the centre of a list
ADD_ROWS = 65_536
PROBED = 0.02  # share of the lists looked at
PROBE_SECONDS = 120
# torch first: its CUDA must be the one that is loaded
PROBE = """
import torch, numpy, faiss
index = faiss.IndexFlatIP(8)
if getattr(faiss, "get_num_gpus", lambda: 0)():
    index = faiss.index_cpu_to_all_gpus(index)
index.add(numpy.eye(8, dtype="float32"))
assert index.search(numpy.eye(8, dtype="float32"), 1)[1][3, 0] == 3
"""


class FaissIndex:
    """Inner products by faiss."""

    def __init__(self, vectors: np.ndarray, device: str = "cpu", flat_rows: int | None = None) -> None:
        """Raises UserError where faiss is not installed."""
        require("faiss", "faiss")
        import faiss

        on_gpu = device.startswith("cuda") and getattr(faiss, "get_num_gpus", lambda: 0)() > 0
        count, dimension = vectors.shape
        self.on_gpu = on_gpu
        self.exact = count <= (flat_rows or (FLAT_ROWS_GPU if on_gpu else FLAT_ROWS))
        index: Any = faiss.IndexFlatIP(dimension) if self.exact else _ivf(faiss, count, dimension)
        if on_gpu:
            index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), int(device.partition(":")[2] or 0),
                                           index)
        if not self.exact:
            index.train(_sample(vectors, index.nlist * TRAIN_PER_LIST))
        for begin in range(0, count, ADD_ROWS):  # never two copies of all vectors
            index.add(np.ascontiguousarray(vectors[begin : begin + ADD_ROWS], np.float32))
        self.index = index

    def search(self, queries: np.ndarray, k: int) -> Neighbours:
        """As `Index.search`. Raises ValueError for more than 2048 neighbours on a GPU."""
        check_k(k)
        if self.on_gpu and k > GPU_K:
            raise ValueError(f"k must be at most {GPU_K} on a GPU, is {k}")
        k_there = min(k, self.index.ntotal) or 1
        scores, ids = self.index.search(np.ascontiguousarray(queries, np.float32), k_there)
        return padded(np.where(ids < 0, -np.inf, scores), ids, k)


def _ivf(faiss: Any, count: int, dimension: int) -> Any:
    """Lists around 2 sqrt(N) centres, a share of which is searched."""
    lists = int(2 * count**0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, lists,
                               faiss.METRIC_INNER_PRODUCT)
    index.nprobe = max(1, round(PROBED * lists))
    index.cp.spherical = True  # centres are unit vectors too
    index.cp.seed = 0
    return index


def _sample(vectors: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows, the same ones every time."""
    if count >= len(vectors):
        return np.ascontiguousarray(vectors, np.float32)
    rows = np.random.default_rng(0).choice(len(vectors), count, replace=False)
    return np.ascontiguousarray(vectors[np.sort(rows)], np.float32)


@functools.cache
def usable() -> bool:
    """Whether faiss is there and works beside this torch.

    A wheel built for CUDA 12 beside a torch for CUDA 13 can take the whole process down, so anything
    but faiss-cpu on Linux is tried in a process of its own first.
    """
    if util.find_spec("faiss") is None:
        return False
    if sys.platform == "linux" and _is_cpu_build():
        return True
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True,
                              check=False, timeout=PROBE_SECONDS)
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        works = done.returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        works, said = False, str(error)
    if not works:
        warnings.warn(f"faiss is installed but cannot be used beside this torch ({said}): neighbours are "
                      "searched by torch", stacklevel=2)
    return works


def _is_cpu_build() -> bool:
    return metadata.packages_distributions().get("faiss") == ["faiss-cpu"]
