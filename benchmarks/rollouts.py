"""What does a rollout cost, and would a static cache pay? Tokens a second of transformers' generate.

    python -m benchmarks.rollouts --rows 16 --new_tokens 48 --repeats 3

The quickstart's model samples answers to its questions: as in stage 1, with log-probabilities as in rollouts,
and the latter with keys and values in a cache of fixed size. Different tokens end the run without speeds.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks import measure
from raft_fast.data.dataset import read_table, spread
from raft_fast.engines.generation import generate_ids, sample_ids
from raft_fast.models.fetch import fetch_model
from raft_fast.models.load import load_chat, load_model
from raft_fast.run.fetch import quickstart_rows
from raft_fast.run.options import ModelOptions


def ways(model: Any) -> dict[str, Callable[..., list[list[int]]]]:
    """What is compared, by name; each takes what `generate_ids` takes."""
    def recorded(*given: Any) -> list[list[int]]:
        return [ids for ids, _ in sample_ids(*given)]

    def static(*given: Any) -> list[list[int]]:
        model.generate = partial(type(model).generate, model, cache_implementation="static")
        try:
            return recorded(*given)
        finally:
            del model.generate

    return {"generate": generate_ids, "with log-probabilities": recorded, "these, static cache": static}


def main() -> None:
    parser = measure.parser(__doc__, rows=16, new_tokens=48, repeats=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    options = ModelOptions(device=args.device)
    folder = fetch_model(options.model)
    model = load_model(folder, options, torch.float32)
    chat, rows = load_chat(folder, model), read_table(str(quickstart_rows()), 0.1).rows
    prompts = sorted((chat.student_prompt(row.prompt) for row in spread(rows, args.rows, 0)), key=len)
    given = (model, chat, prompts, args.new_tokens, 1.0, range(len(prompts)))
    drawn = {name: draw(*given) for name, draw in ways(model).items()}
    expected = drawn["generate"]
    if unlike := [name for name, ids in drawn.items() if ids != expected]:
        raise SystemExit(f"{unlike[0]} draws other tokens")
    times = measure.in_turns({name: (partial(draw, *given),) for name, draw in ways(model).items()},
                             args.repeats, args.device)
    tokens = sum(map(len, expected))
    measure.show(f"{len(prompts)} prompts, {tokens} tokens drawn, {torch.get_num_threads()} threads",
                 ("way", "tokens/s: median", "at 20 %", "at 80 % of the times"),
                 ([name, *(f"{1000 * tokens / parts[-1][key]:.1f}" for key in ("ms_p50", "ms_p20", "ms_p80"))]
                  for name, parts in times.items()))


if __name__ == "__main__":
    main()
