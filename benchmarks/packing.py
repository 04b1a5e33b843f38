"""Does packing pay? Student seconds, forward and backward, of four ways through one model.

    python -m benchmarks.packing --rows 4 --repeats 3
    python -m benchmarks.packing --ways "packed" "packed, prompts shared"

SFT sequences and shorter "trajectories" (prefixes of the answers) of real rows: padded buckets, one packed
row with transformers' S x S block mask, one packed row with attention per sequence, and the same with what
prompts begin with alike in it once. The same states, or no speed. Tokens are what the views hold: what is
shared counts as often as it is used. Beside the seconds, those of the process on its CPUs, which other work
on the machine disturbs less.
"""

import argparse
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from raft_fast.data.dataset import read_table
from raft_fast.models import attention
from raft_fast.models.chat import View
from raft_fast.models.fetch import fetch_model
from raft_fast.models.load import load_chat, load_model
from raft_fast.models.packing import completion_hidden, pack
from raft_fast.run.fetch import quickstart_rows
from raft_fast.run.options import ModelOptions

SHARED = "packed, prompts shared"
WAYS = {"padded buckets": ("sdpa", set()), "packed, block mask": ("sdpa", {"sdpa"}),
        "packed": (attention.PACKED, attention.PACKING), SHARED: (attention.PACKED, attention.PACKING)}


@contextmanager
def way(model: Any, name: str) -> Iterator[None]:
    """The model with one of WAYS: its attention, and which kinds of attention may pack."""
    implementation, packing = WAYS[name]
    before, attention.PACKING = attention.PACKING, packing
    model.set_attn_implementation(implementation)
    model.shares_prompts = name == SHARED
    try:
        yield
    finally:
        attention.PACKING = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    asked = parser.parse_args()
    options = ModelOptions(device="cpu")
    folder = fetch_model(options.model, None)
    model = load_model(folder, options, torch.float32).train()
    chat, dice = load_chat(folder, model), random.Random(0)
    rows = dice.sample(read_table(str(quickstart_rows()), 0.1).rows, asked.rows)
    answers = [chat.sft_view(row.prompt, row.completion) for row in rows]
    views = answers + [View(view.prompt, view.completion[: dice.randint(20, 96)]) for view in answers]
    tokens = sum(len(view.ids) for view in views)
    with way(model, SHARED):
        again = tokens - pack(views, model).inputs["input_ids"].shape[1]
    print(f"{len(views)} sequences, {tokens} tokens, {again} of them ({again / tokens:.0%}) what another "
          f"prompt begins with; {torch.get_num_threads()} threads")
    seconds: dict[str, list[float]] = {name: [] for name in asked.ways}
    busy: dict[str, list[float]] = {name: [] for name in asked.ways}
    expected = None
    for _ in range(asked.repeats):
        for name in asked.ways:
            with way(model, name):
                model.zero_grad(set_to_none=True)
                start, begun = time.perf_counter(), time.process_time()
                hidden = completion_hidden(model, views, chat.pad_id)
                hidden.square().sum().backward()
                seconds[name].append(time.perf_counter() - start)
                busy[name].append(time.process_time() - begun)
            expected = hidden.detach() if expected is None else expected
            if not (hidden.detach() - expected).norm() <= 1e-4 * expected.norm():
                raise SystemExit(f"{name} gives other states")
    for name, times in seconds.items():
        median, best = statistics.median(times), min(times)
        print(f"{name:22} median {median:6.2f} s, {tokens / median:6.1f} tokens/s; "
              f"best {best:6.2f} s, {tokens / best:6.1f} tokens/s; "
              f"on CPUs median {statistics.median(busy[name]):6.2f} s, best {min(busy[name]):6.2f} s")


if __name__ == "__main__":
    main()
