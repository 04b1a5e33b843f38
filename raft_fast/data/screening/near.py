"""All neighbours above a similarity, however many there are."""

from collections.abc import Iterator

import numpy as np

from raft_fast.data.neighbours import Index

FIRST_K, MOST_K = 16, 2048  # faiss finds no more on a GPU
BLOCK = 1024
DIGITS = 4  # to which similarities are compared: batch and device move the digits after


def near(index: Index, count: int, vectors: np.ndarray, least: float) -> Iterator[list[tuple[int, float]]]:
    """For each of the vectors, float32 [Q, D]: (id, similarity) of those of the `count` in the index
    whose similarity is at least `least`, best first and the lower id first of equals. 2048 at most."""
    for begin in range(0, len(vectors), BLOCK):
        block = np.array(vectors[begin : begin + BLOCK])
        found: list[list[tuple[int, float]]] = [[] for _ in block]
        open_, k = np.arange(len(block)), FIRST_K
        while len(open_):
            got = index.search(block[open_], k)
            scores = np.round(got.scores.astype(np.float64), DIGITS)
            for place, ids, row in zip(open_, got.ids, scores, strict=True):
                kept = [(int(id_), float(score)) for id_, score in zip(ids, row, strict=True)
                        if id_ >= 0 and score >= least]
                found[place] = sorted(kept, key=lambda one: (-one[1], one[0]))
            more = scores[:, -1] >= least  # the list may have been cut
            open_, k = (open_[more] if k < min(count, MOST_K) else open_[:0]), min(4 * k, MOST_K)
        yield from found
