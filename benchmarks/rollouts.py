"""What does a rollout cost, and would a static cache pay? Tokens a second of transformers' generate.

    python -m benchmarks.rollouts --rows 16 --new_tokens 48 --repeats 3

The student samples answers to real questions: as stage 1 does, with log-probabilities as rollouts do, and
those with keys and values in a cache of fixed size. The same tokens, or no speed.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from raft_fast.data.dataset import read_table, spread
from raft_fast.engines.generation import generate_ids, sample_ids
from raft_fast.models.fetch import fetch_model
from raft_fast.models.load import load_chat, load_model
from raft_fast.run.fetch import quickstart_rows
from raft_fast.run.options import ModelOptions


def ways(model: Any) -> dict[str, Callable[..., list[list[int]]]]:
    """What is compared, by name; each takes what `generate_ids` takes."""
    def recorded(*asked: Any) -> list[list[int]]:
        return [ids for ids, _ in sample_ids(*asked)]

    def static(*asked: Any) -> list[list[int]]:
        model.generate = partial(type(model).generate, model, cache_implementation="static")
        try:
            return recorded(*asked)
        finally:
            del model.generate

    return {"generate": generate_ids, "with log-probabilities": recorded, "these, static cache": static}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--new_tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    options = ModelOptions(device=asked.device)
    folder = fetch_model(options.model, None)
    model = load_model(folder, options, torch.float32)
    chat = load_chat(folder, model)
    rows = spread(read_table(str(quickstart_rows()), 0.1).rows, asked.rows, 0)
    prompts = sorted((chat.student_prompt(row.prompt) for row in rows), key=len)
    seconds: dict[str, list[float]] = {name: [] for name in ways(model)}
    expected = None
    for _ in range(asked.repeats):
        for name, draw in ways(model).items():
            start = time.perf_counter()
            drawn = draw(model, chat, prompts, asked.new_tokens, 1.0, range(len(prompts)))
            seconds[name].append(time.perf_counter() - start)
            expected = drawn if expected is None else expected
            if drawn != expected:
                raise SystemExit(f"{name} draws other tokens")
    tokens = sum(map(len, expected or []))
    print(f"{len(prompts)} prompts of {len(prompts[0])} to {len(prompts[-1])} tokens, {tokens} tokens drawn, "
          f"{torch.get_num_threads()} threads")
    for name, times in seconds.items():
        print(f"{name:24} median {tokens / statistics.median(times):6.1f} tokens/s, "
              f"best {tokens / min(times):6.1f}")


if __name__ == "__main__":
    main()
