"""Nearest neighbours: faiss and torch as we use them, beside sentence-transformers' own search.

    python -m benchmarks.neighbours --sizes 1000,10000,100000 --real

Ten neighbours of a sample of queries among N vectors: seconds to build and to search, memory above the
vectors, and recall@10 against an exact search in float64. The vectors are mixtures of three real
embeddings (`--real`; else of random ones) with a little noise: they crowd together as texts of one domain
do, without being copies.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.util import semantic_search

from benchmarks import measure
from raft_fast.data.dataset import read_table
from raft_fast.data.neighbours import FaissIndex, TorchIndex
from raft_fast.models.embedding import unit
from raft_fast.models.load import load_encoder
from raft_fast.run.fetch import quickstart_rows
from raft_fast.run.options import ModelOptions

DIMENSION, K = 384, 10
WEIGHTS, NOISE = (1.0, 0.7, 0.5), 0.02
BLOCK = 50_000
FEWEST_FOR_IVF = 10_000

Search = Callable[[np.ndarray], np.ndarray]
"""Queries to the ids of their neighbours."""


def embeddings(files: list[Path] | None) -> np.ndarray:
    """What the vectors are mixed from: random ones (None), or those of rows' questions and answers."""
    if files is None:
        return unit(np.random.default_rng(0).normal(size=(2000, DIMENSION)))
    rows = [row for file in files or (quickstart_rows("en"), quickstart_rows("sv"))
            for row in read_table(str(file), 0.0).rows]
    texts = [text for row in rows for text in (row.prompt[-1]["content"], row.gold)]
    return load_encoder(ModelOptions()).embed(texts)


def mixtures(real: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` unit vectors, float32: weighted sums of three of `real` each, and noise."""
    rng = np.random.default_rng(seed)
    out = np.empty((count, real.shape[1]), np.float32)
    for begin in range(0, count, BLOCK):
        part = out[begin : begin + BLOCK]
        mixed = sum(weight * real[rng.integers(len(real), size=len(part))] for weight in WEIGHTS)
        part[:] = unit(mixed + NOISE * rng.standard_normal(part.shape, np.float32))
    return out


def exact(base: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The K nearest in float64, query by query."""
    return np.stack([np.argpartition(-(base @ query.astype(np.float64)), K - 1)[:K] for query in queries])


def ours(index: Any) -> Search:
    return lambda queries: index.search(queries, K).ids


def theirs(base: np.ndarray) -> Search:
    def search(queries: np.ndarray) -> np.ndarray:
        found = semantic_search(torch.from_numpy(queries), torch.from_numpy(base), top_k=K)
        return np.array([[hit["corpus_id"] for hit in hits] for hits in found])

    return search


IVF = "faiss, IVF"
WAYS: dict[str, Callable[[np.ndarray], Search]] = {
    "torch": lambda base: ours(TorchIndex(base)),
    "faiss, flat": lambda base: ours(FaissIndex(base, flat_rows=len(base))),
    IVF: lambda base: ours(FaissIndex(base, flat_rows=1)),
    "sentence-transformers semantic_search": theirs,
}


def with_memory(run: Callable[[], Any]) -> tuple[Any, int]:
    """The result of `run`, and the peak of bytes that it took."""
    kept: list[Any] = []
    extra = measure.extra_memory(lambda: kept.append(run()), "cpu")
    return kept[0], extra


def compare(base: np.ndarray, queries: np.ndarray, repeats: int) -> dict[str, dict[str, Any]]:
    """Every way on the same vectors; searches take turns, so that a neighbour's load falls on all."""
    truth = exact(base, queries)
    built: dict[str, Search] = {}
    result: dict[str, dict[str, Any]] = {}
    for name, build in WAYS.items():
        if name == IVF and len(base) < FEWEST_FOR_IVF:
            continue
        start = time.perf_counter()
        built[name], to_build = with_memory(partial(build, base))
        seconds = time.perf_counter() - start
        ids, to_search = with_memory(partial(built[name], queries))
        recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(truth, ids, strict=True)])
        result[name] = {"build_s": round(seconds, 3), "recall_at_10": round(float(recall), 4),
                        "extra_mib": round((to_build + to_search) / 2**20)}
    times = measure.in_turns({name: (partial(one, queries),) for name, one in built.items()}, repeats, "cpu")
    for name, parts in times.items():
        result[name] |= {"search_" + key: value for key, value in parts[-1].items()}
    return result


def main() -> None:
    """Print each size as it is done and write its JSON."""
    parser = measure.parser(__doc__, queries=500, repeats=3)
    parser.add_argument("--sizes", default="1000,10000,100000,1000000")
    parser.add_argument("--real", nargs="*", type=Path, metavar="FILE", help="mix the vectors from "
                        "embeddings of these rows' questions and answers; without FILE the quickstart's, in "
                        "both languages")
    args = parser.parse_args()
    real = embeddings(args.real)
    for count in (int(size) for size in args.sizes.split(",")):
        base, queries = mixtures(real, count, seed=0), mixtures(real, args.queries, seed=1)
        ways = compare(base, queries, args.repeats)
        if min(way["recall_at_10"] for name, way in ways.items() if name != IVF) < 0.999:
            raise SystemExit(f"an exact search misses neighbours, no times: {ways}")
        found = {"vectors": count, "dimension": base.shape[1], "queries": args.queries, "k": K,
                 "vectors_mib": round(base.nbytes / 2**20), "gflop_of_exact_search": round(
                     2.0 * count * args.queries * base.shape[1] / 1e9, 2),
                 "of": f"mixtures of {len(real)} {'random' if args.real is None else 'real'} embeddings",
                 "ways": ways}
        print(json.dumps(found, indent=1))
        measure.record(f"neighbours-n{count}", "cpu", found)


if __name__ == "__main__":
    main()
