"""How many different columns neighbouring tokens share: what the tiles' traffic depends on.

    python -m benchmarks.shared_columns --model HuggingFaceTB/SmolLM2-135M-Instruct --n 8192

Distinct ids over ids listed, for groups of neighbouring tokens, on real text and on random ids; how
many tokens name the most popular columns; and what the weight gradient would cost on an H200 with
the most popular columns in a dense product (triton_hot.py) and the others gathered.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import head_inputs, measure

TILE, D = 64, 4096  # of the tiles, and of the head whose cost is counted
FLOPS, BANDWIDTH = 790e12, 4.3e12  # an H200's bf16 products and copies


def distinct_share(ids_NK: Tensor, group: int) -> float:
    """Distinct ids of a group of neighbours over all they list, mean over the groups."""
    shares = [len(ids.unique()) / ids.numel() for ids in ids_NK.split(group) if len(ids) == group]
    return round(sum(shares) / len(shares), 4)


def hot_columns(ids_NK: Tensor, hits_V: Tensor) -> list[dict[str, float]]:
    """Milliseconds of dWeight by counting, and a tile's cold union, for numbers of dense columns."""
    n, rank = len(ids_NK), hits_V.argsort(descending=True, stable=True).argsort()
    ordered, rows = hits_V.sort(descending=True).values, []
    unions = [rank[ids.unique()] for ids in ids_NK.split(TILE)]
    for hot in (0, 1024, 2048, 4096, 8192, 16384):
        gathered = float(ordered[hot:].sum()) * D * 2 / BANDWIDTH
        dense = 2 * n * hot * D / FLOPS + (8 * n * hot + 8 * hot * D) / BANDWIDTH
        rows.append({
            "columns": hot, "share of the entries": round(float(ordered[:hot].sum() / ordered.sum()), 4),
            "gathered ms": round(gathered * 1e3, 2), "dense ms": round(dense * 1e3, 2),
            "both ms": round((gathered + dense) * 1e3, 2), f"cold columns of {TILE} tokens": round(
                sum(int((union >= hot).sum()) for union in unions) / len(unions))})
    return rows


def main() -> None:
    """Print the shares and write JSON."""
    parser = measure.parser(__doc__, n=1024, k=512)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", type=Path, help="rows to read instead of the quickstart's")
    args = parser.parse_args()
    inputs = head_inputs.model_inputs(args.model, args.text, args.n, args.k, torch.float32, "cpu")
    real_NK, vocab = inputs.targets.ids, inputs.weight_VD.shape[0]
    random_NK = torch.stack([torch.randperm(vocab)[: args.k] for _ in range(args.n)])
    hits_V = torch.bincount(real_NK.flatten(), minlength=vocab)
    most_V = hits_V.sort(descending=True).values
    mass = float(inputs.targets.mass.mean())  # type: ignore[union-attr]
    found = {
        "source": inputs.source,
        "distinct of listed": {
            name: {group: distinct_share(ids, group) for group in (8, 16, 32, 64, 128)}
            for name, ids in (("real", real_NK), ("random", random_NK))},
        "columns named at all": int((hits_V > 0).sum()),
        "share of the entries in the most popular columns": {
            count: round(float(most_V[:count].sum() / hits_V.sum()), 4) for count in (64, 512, 4096)},
        "columns that at least 45 of 8192 tokens name": int((hits_V * 8192 >= 45 * args.n).sum()),
        f"dWeight on an H200, D={D}, counted": hot_columns(real_NK, hits_V),
        "mean mass on K at T": {inputs.targets.temperature: round(mass, 4)},
    }
    print(json.dumps(found, indent=1))
    measure.record("shared-columns", "cpu", found, folder=measure.results_root())


if __name__ == "__main__":
    main()
