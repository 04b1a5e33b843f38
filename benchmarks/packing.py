"""Does packing pay? Student seconds, forward and backward, of four ways through one model.

    python -m benchmarks.packing --rows 4 --repeats 3
    python -m benchmarks.packing --ways "packed" "packed, prompts shared"

SFT sequences and shorter "trajectories" (prefixes of the answers) of real rows: padded buckets, one packed
row with transformers' S x S block mask, one packed row with attention per sequence, and the same with shared
beginnings of prompts in it once. Different states end the run without speeds. Tokens are what the views
hold: what is shared counts as often as it is used. Beside the seconds on the clock stand the process's
seconds on its CPUs, which other work on the machine disturbs less.
"""

import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks import measure
from benchmarks.rollouts import quickstart_model
from raft_fast.models import attention
from raft_fast.models.chat import View
from raft_fast.models.packing import completion_hidden, pack

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
    parser = measure.parser(__doc__, rows=4, repeats=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    model, chat, known = quickstart_model("cpu")
    model.train()
    dice = random.Random(0)
    answers = [chat.sft_view(row.prompt, row.completion) for row in dice.sample(known, args.rows)]
    views = answers + [View(view.prompt, view.completion[: dice.randint(20, 96)]) for view in answers]
    tokens = sum(len(view.ids) for view in views)
    with way(model, SHARED):
        again = tokens - pack(views, model).inputs["input_ids"].shape[1]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in args.ways}
    expected = None
    for _ in range(args.repeats):
        for name, times in seconds.items():
            with way(model, name):
                model.zero_grad(set_to_none=True)
                start, begun = time.perf_counter(), time.process_time()
                hidden = completion_hidden(model, views, chat.pad_id)
                hidden.square().sum().backward()
                times.append((time.perf_counter() - start, time.process_time() - begun))
            expected = hidden.detach() if expected is None else expected
            if not (hidden.detach() - expected).norm() <= 1e-4 * expected.norm():
                raise SystemExit(f"{name} gives other states")
    rows = []
    for name, times in seconds.items():
        clock, busy = ((statistics.median(spent), min(spent)) for spent in zip(*times, strict=True))
        rows.append([name, *(f"{one:.2f}" for one in (*clock, *busy)),
                     *(f"{tokens / one:.1f}" for one in clock)])
    measure.show(f"{len(views)} sequences, {tokens} tokens, {again} ({again / tokens:.0%}) in shared "
                 f"beginnings, {torch.get_num_threads()} threads",
                 ("way", "median s", "best s", "median CPU s", "best CPU s", "tokens/s", "at best"), rows)


if __name__ == "__main__":
    main()
