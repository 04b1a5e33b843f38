"""Tile sizes and plain gathers against each other on a GPU, on ids that overlap as real text does.

    python -m benchmarks.tune_tiles [--n 8192 --d 4096 --v 128256]

Prints milliseconds of sampled logits and of dHidden for every choice; the constants at the head
of triton_tiles.py are what to change when another choice wins.
"""

import argparse
import itertools
import json
from typing import Any

import torch
from raft_kernels import triton_sampled, triton_tiles
from torch import Tensor

from benchmarks import measure


def overlapping_ids(n: int, vocab: int, k: int, device: str) -> Tensor:
    """[N, K] ids of which a tile of 64 tokens shares about as many as real text (26 % distinct).

    Half of each row are ids common to all; the rest come from a pool that moves on every tile.
    """
    generator = torch.Generator(device).manual_seed(0)
    common = torch.randperm(vocab, generator=generator, device=device)[: k // 2]
    rows = []
    for _ in range(0, n, triton_tiles.TILE):
        pool = torch.randperm(vocab, generator=generator, device=device)[: 22 * k]
        pool = pool[~torch.isin(pool, common)]
        for _ in range(triton_tiles.TILE):
            own = pool[torch.randperm(len(pool), generator=generator, device=device)[: k - k // 2]]
            rows.append(torch.cat([common, own]))
    return torch.stack(rows)[:n]


def main() -> None:
    """Time every choice that compiles; write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    for name, value in (("n", 8192), ("d", 4096), ("v", 128256), ("k", 512)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.manual_seed(0)
    hidden = torch.randn(args.n, args.d, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(args.v, args.d, device="cuda", dtype=torch.bfloat16)
    grad = torch.randn(args.n, args.k, device="cuda")
    rows: list[dict[str, Any]] = []
    for tile, block_u, block_d in itertools.product((64, 128), (64, 128), (32, 64, 128)):
        triton_tiles.TILE, triton_tiles.CHUNK = tile, 16 * tile
        triton_tiles.BLOCK_U, triton_tiles.BLOCK_D = block_u, block_d
        ids = overlapping_ids(args.n, args.v, args.k, "cuda")
        choice = {"TILE": tile, "BLOCK_U": block_u, "BLOCK_D": block_d}
        rows.append(choice | _time(lambda ids=ids: triton_tiles.logits(hidden, weight, ids),
                                   lambda ids=ids: triton_tiles.grad_hidden(grad, weight, ids)))
        print(rows[-1])
    triton_tiles.suits = lambda *_: False  # type: ignore[assignment]
    for block_k, block_d in itertools.product((8, 16, 32), (128, 256)):
        triton_sampled.BLOCK_K, triton_sampled.BLOCK_D = block_k, block_d
        choice = {"gather": True, "BLOCK_K": block_k, "BLOCK_D": block_d}
        rows.append(choice | _time(
            lambda ids=ids: triton_sampled.sampled_logits(hidden, weight, ids, None),
            lambda ids=ids: triton_sampled.sampled_backward(
                grad, hidden, weight, ids, None, True, False)))
        rows[-1] |= _time(dweight=lambda ids=ids: triton_sampled.grad_weight(
            grad, hidden, weight, ids))
        print(rows[-1])
    path = measure.results_folder("cuda") / "tune-tiles.json"
    path.write_text(json.dumps({"command": measure.command(), "machine": measure.machine("cuda"),
                                "rows": rows}, indent=1) + "\n")


def _time(logits: Any = None, dhidden: Any = None, dweight: Any = None) -> dict[str, Any]:
    runs = {"logits": logits, "dhidden": dhidden, "dweight": dweight}
    times: dict[str, Any] = {}
    for name, run in runs.items():
        if run is None:
            continue
        try:
            times[f"{name}_ms"] = measure.in_turns({name: (run,)}, 10, "cuda")[name][-1]["ms_p50"]
        except Exception as error:  # a choice that needs more shared memory than there is
            times[f"{name}_ms"] = type(error).__name__
    return times


if __name__ == "__main__":
    main()
