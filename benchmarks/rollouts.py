"""What does a rollout cost? Tokens a second of this project's batches and of transformers' `generate`.

    python -m benchmarks.rollouts --rows 16 --batch 16 --new_tokens 64 --precision bf16 --repeats 3

The quickstart's model samples answers to its questions at temperature 1. Before speeds are shown both must
give the same greedy tokens in float32. Below --rows, --batch shows what it is worth that a row which ends
makes room for the next.
"""

from functools import partial
from typing import Any

import torch

from benchmarks import measure
from raft_fast.data.dataset import read_table, spread
from raft_fast.engines.generation import draw_ids
from raft_fast.models.fetch import fetch_model
from raft_fast.models.load import load_chat, load_model
from raft_fast.models.packing import buckets
from raft_fast.run.fetch import quickstart_rows
from raft_fast.run.options import ModelOptions

TOKENS = 65536


def main() -> None:
    parser = measure.parser(__doc__, rows=16, batch=16, new_tokens=64, repeats=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"))
    args = parser.parse_args()
    options = ModelOptions(device=args.device)
    folder = fetch_model(options.model)
    model = load_model(folder, options, torch.bfloat16 if args.precision == "bf16" else torch.float32)
    chat, rows = load_chat(folder, model), read_table(str(quickstart_rows()), 0.1).rows
    prompts = [chat.student_prompt(row.prompt) for row in spread(rows, args.rows, 0)]

    def ours(temperature: float = 1.0) -> list[list[int]]:
        drawn = draw_ids(model, chat, prompts, args.new_tokens, temperature, range(len(prompts)), args.batch,
                         TOKENS)
        return [one.ids for one in sorted(drawn, key=lambda one: one.index)]

    def generate(temperature: float = 1.0) -> list[list[int]]:
        how: dict[str, Any] = {"do_sample": True, "top_k": 0} if temperature else {"do_sample": False}
        found: list[list[int]] = [[]] * len(prompts)
        for chosen in buckets([len(prompt) for prompt in prompts], TOKENS, args.batch):
            asked = chat.tokenizer.pad({"input_ids": [prompts[at] for at in chosen]}, padding_side="left",
                                       return_tensors="pt").to(model.device)
            drawn = model.generate(**asked, max_new_tokens=args.new_tokens, eos_token_id=sorted(chat.eos_ids),
                                   pad_token_id=chat.pad_id, **how)
            for at, ids in zip(chosen, drawn[:, asked["input_ids"].shape[1] :].tolist(), strict=True):
                end = next((end for end, token in enumerate(ids) if token in chat.eos_ids), len(ids))
                found[at] = ids[: end + 1]
        return found

    ways = {"generate": generate, "ours": ours}
    unlike = sum(one != other for one, other in zip(ours(0.0), generate(0.0), strict=True))
    if unlike and args.precision == "float32":
        raise SystemExit(f"{unlike} of {len(prompts)} rows have other greedy tokens")
    torch.manual_seed(0)
    tokens = {name: sum(map(len, way())) for name, way in ways.items()}
    times = measure.in_turns({name: (partial(way),) for name, way in ways.items()}, args.repeats, args.device)
    measure.show(f"{len(prompts)} prompts, {args.batch} at once, {args.precision}, {unlike} greedy rows "
                 f"unlike, {torch.get_num_threads()} threads",
                 ("way", "tokens", "tokens/s: median", "at 20 %", "at 80 % of the times"),
                 ([name, str(tokens[name]),
                   *(f"{1000 * tokens[name] / parts[-1][key]:.1f}" for key in ("ms_p50", "ms_p20", "ms_p80"))]
                  for name, parts in times.items()))


if __name__ == "__main__":
    main()
