"""How many different columns neighbouring tokens share: what the tiles' traffic depends on.

    python -m benchmarks.overlap --model HuggingFaceTB/SmolLM2-135M-Instruct --text faq.jsonl

Distinct ids over ids listed, for groups of neighbouring tokens, on real text and on random ids,
and how many tokens name the most popular columns.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import head_inputs, measure


def distinct_share(ids_NK: Tensor, group: int) -> float:
    """Distinct ids of a group of neighbours over all they list, mean over the groups."""
    shares = [len(ids.unique()) / ids.numel() for ids in ids_NK.split(group) if len(ids) == group]
    return round(sum(shares) / len(shares), 4)


def main() -> None:
    """Print the shares and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--n", type=int, default=1024)
    parser.add_argument("--k", type=int, default=512)
    args = parser.parse_args()
    inputs = head_inputs.model_inputs(args.model, args.text, args.n, args.k, torch.float32, "cpu")
    real_NK, vocab = inputs.targets.ids, inputs.weight_VD.shape[0]
    random_NK = torch.stack([torch.randperm(vocab)[: args.k] for _ in range(args.n)])
    groups = [8, 16, 32, 64, 128]
    hits_V = torch.bincount(real_NK.flatten(), minlength=vocab).sort(descending=True).values
    result = {
        "command": measure.command(), "source": inputs.source,
        "distinct of listed": {
            name: {g: distinct_share(ids, g) for g in groups}
            for name, ids in (("real", real_NK), ("random", random_NK))},
        "columns named at all": int((hits_V > 0).sum()),
        "share of the entries in the most popular columns": {
            c: round(float(hits_V[:c].sum() / hits_V.sum()), 4) for c in (64, 512, 4096)},
        "mean mass on K at T": {inputs.targets.temperature:
                                round(float(inputs.targets.mass.mean()), 4)},  # type: ignore[union-attr]
    }
    print(json.dumps(result, indent=1))
    path = Path(__file__).parent / "results" / "overlap.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
