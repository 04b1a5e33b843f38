r"""Tile sizes, hot columns and plain gathers against each other, on ids that overlap as in real text.

    python -m benchmarks.tune_tiles [--n 8192 --d 4096 --v 128256]
    TRITON_INTERPRET=1 python -m benchmarks.tune_tiles --device cpu --dtype float16 --n 64 --d 16 \
        --v 200 --k 6 --limit 1

Milliseconds of sampled logits, dHidden and dWeight for every choice of the constants at the heads of
triton_tiles.py, triton_hot.py and triton_sampled.py. A choice that fails the correctness gate shows no
speed, and the exit code is then 1, as it is where the constants as they are do not run.
"""

import argparse
import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from raft_kernels import TopKTargets, triton_sampled
from triton.runtime.errors import OutOfResources

from benchmarks import head_gate, head_inputs, measure
from benchmarks.head_inputs import HeadInputs

Choice = dict[str, Any]  # module.CONSTANT: value
TILES = {"triton_tiles.TILE": (64, 128), "triton_tiles.BLOCK_U": (64, 128),
         "triton_tiles.BLOCK_D": (32, 64, 128)}
HOT = {"triton_hot.HOT": (0, 1024, 2048, 4096)}  # 8 K columns at most: 4096 at K = 512
GATHERS = {"triton_tiles.suits": (lambda *_: False,), "triton_sampled.BLOCK_K": (8, 16, 32),
           "triton_sampled.BLOCK_D": (128, 256)}
OPERATIONS = ("logits", "dhidden", "dweight")


def choices() -> Iterator[tuple[Choice, tuple[str, ...]]]:
    """Each choice of constants, and the operations that it changes."""
    for axes, operations in ((TILES, OPERATIONS[:2]), (HOT, OPERATIONS[2:]), (GATHERS, OPERATIONS)):
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True)), operations


@contextmanager
def chosen(choice: Choice) -> Iterator[bool]:
    """The constants of the kernels' modules, for a while; whether they are those anyway."""
    with ExitStack() as undo:
        names = [name.split(".") for name in choice]
        places = [(import_module(f"raft_kernels.{module}"), constant) for module, constant in names]
        before = [getattr(*place) for place in places]
        for place, old, value in zip(places, before, choice.values(), strict=True):
            undo.callback(setattr, *place, old)
            setattr(*place, value)
        yield before == [*choice.values()]


def overlapping(args: argparse.Namespace) -> HeadInputs:
    """Random vectors, and ids of which 64 neighbours share about as many as in real text (28 % distinct):
    half of each row's are common to all, the rest come from a pool that moves every 64 tokens."""
    dtype = measure.DTYPES[args.dtype]
    inputs = head_inputs.random_inputs(args.n, args.d, args.v, args.k, dtype, args.device)
    common = torch.randperm(args.v)[: args.k // 2]
    rows = []
    for place in range(args.n):
        if place % 64 == 0:
            pool = torch.randperm(args.v)[: 22 * args.k]
            pool = pool[~torch.isin(pool, common)]
        rows.append(torch.cat([common, pool[torch.randperm(len(pool))[: args.k - args.k // 2]]]))
    targets = TopKTargets(torch.stack(rows).to(args.device), inputs.targets.logprobs,
                          inputs.targets.temperature, vocab_size=args.v, checked=True)
    return replace(inputs, targets=targets, backend="triton")


def judged_and_timed(inputs: HeadInputs, operations: tuple[str, ...], args: argparse.Namespace
                     ) -> dict[str, Any]:
    """The gate's result and, where it is green, times; green is None for a choice that does not fit."""
    try:
        gate = head_gate.gate(inputs)
        return gate if not gate["green"] else gate | _times(inputs, operations, args)
    except (OutOfResources, torch.OutOfMemoryError) as error:
        return {"green": None, "error": f"{type(error).__name__}: {error}"[:200]}


def _times(inputs: HeadInputs, operations: tuple[str, ...], args: argparse.Namespace) -> dict[str, Any]:
    head = inputs.student_ND, inputs.weight_VD, inputs.targets.ids, None
    grad = torch.randn(head[2].shape, device=head[2].device)
    runs = {"logits": lambda: triton_sampled.sampled_logits(*head),
            "dhidden": lambda: triton_sampled.sampled_backward(grad, *head, True, False),
            "dweight": lambda: triton_sampled.sampled_backward(grad, *head, False, True)}
    times = measure.in_turns({name: (runs[name],) for name in operations}, args.repeats, args.device)
    return {f"{name}_ms": parts[-1]["ms_p50"] for name, parts in times.items()}


def main() -> None:
    """Judge and time every choice; write JSON after each, so that a stop loses nothing."""
    parser = measure.parser(__doc__, n=8192, d=4096, v=128256, k=512, repeats=10)
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--limit", type=int, help="only the first so many choices")
    args = parser.parse_args()
    inputs, rows = overlapping(args), []
    for choice, operations in itertools.islice(choices(), args.limit):
        with chosen(choice) as shipped:
            rows.append({name: value if isinstance(value, int) else False for name, value in choice.items()}
                        | {"shipped": shipped, **judged_and_timed(inputs, operations, args)})
        print(rows[-1], flush=True)
        measure.record(f"tune-tiles-{args.dtype}", args.device, {"rows": rows})
    # a choice may not fit the GPU; the constants as they are must
    raise SystemExit(any(row["green"] is False or (row["shipped"] and not row["green"]) for row in rows))


if __name__ == "__main__":
    main()
