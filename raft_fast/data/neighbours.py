"""Embeddings in a file, and nearest neighbours by inner product: faiss for many vectors, torch for few.

Both search exactly up to `FLAT_ROWS` vectors; beyond, faiss looks at a part of them (IVF) and finds
almost all. The thresholds are measured: `python -m benchmarks.neighbours`, dev/PERFORMANCE.md.
"""

import functools
import hashlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from raft_fast.run.errors import require
from raft_fast.run.files import read_json, replacing, write_json

EMBED_TEXTS = 1024  # texts embedded at once
TORCH_ROWS = 20_000  # up to here torch's matrix product is as good, and there is nothing to build
BASE_ROWS, QUERY_ROWS = 32_768, 1_024  # of one matrix product: 128 MiB of scores
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

Backend = Literal["auto", "torch", "faiss"]


class SentenceEncoder(Protocol):
    """φ of Eq. 2. Two encoders with one `identity` make the same vectors; `device` is where it runs."""

    identity: str
    device: str

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 [len(texts), D]; zeros for a text without one."""
        ...


def embed_to_file(
    texts: Callable[[], Iterable[str]], count: int, encoder: SentenceEncoder, path: Path,
    advance: Callable[[int], None] = lambda steps: None,
) -> np.ndarray:
    """The vectors of `count` texts, float32 [count, D], memory-mapped from `path` (.npy).

    `texts` gives them anew each time. A file made by the same encoder from the same texts is used as it is;
    one that cannot be read is made again.
    """
    note, key = path.with_suffix(".json"), _key(texts(), encoder)
    if (kept := _kept(path, note, key, count)) is not None:
        advance(count)
        return kept
    note.unlink(missing_ok=True)
    done = 0
    with replacing(path, "wb") as file:  # not a memory map: on a full disk, writing to one kills the process
        for block in _blocks(texts()):
            found = encoder.embed(block)
            if not done:
                np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False,
                                                            "shape": (count, found.shape[1])})
            file.write(found.astype("<f4").tobytes())
            done += len(block)
            advance(len(block))
        if not done or done != count:
            raise ValueError(f"{count} texts were promised and {done} given")
    write_json(key, note)
    return np.load(path, mmap_mode="r")


def _kept(path: Path, note: Path, key: dict[str, str], count: int) -> np.ndarray | None:
    """What an earlier run left of these vectors; None where that is not all of them."""
    try:
        if read_json(note) != key:
            return None
        vectors = np.lib.format.open_memmap(path, "r")
    except Exception:  # numpy fails at garbage in many ways, and embedding again is always right
        return None
    return vectors if vectors.ndim == 2 and len(vectors) == count and vectors.dtype == np.float32 else None


def _key(texts: Iterable[str], encoder: SentenceEncoder) -> dict[str, str]:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return {"encoder": encoder.identity, "texts": digest.hexdigest()}


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    coming = iter(texts)
    while block := list(islice(coming, EMBED_TEXTS)):
        yield block


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
    if backend == "faiss" or (backend == "auto" and len(vectors) > TORCH_ROWS and faiss_is_usable()):
        return FaissIndex(vectors, device)
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
def faiss_is_usable() -> bool:
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
