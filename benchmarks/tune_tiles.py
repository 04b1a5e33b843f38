r"""Tile sizes, hot columns and plain gathers against each other, on ids that overlap as in real text.

    python -m benchmarks.tune_tiles [--n 8192 --d 4096 --v 128256]
    TRITON_INTERPRET=1 python -m benchmarks.tune_tiles --device cpu --dtype float16 --n 64 --d 16 \
        --v 200 --k 6 --limit 1

Milliseconds of sampled logits, dHidden and dWeight for every choice; the constants at the heads of
triton_tiles.py, triton_hot.py and triton_sampled.py are what to change when another choice wins. A
choice that fails the correctness gate shows no speed, and the exit code is then 1, as it is where the
constants as they are do not run. A choice may need more shared memory than there is; another error ends it.
"""

import argparse
import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from raft_kernels import TopKTargets, triton_hot, triton_sampled, triton_tiles
from torch import Tensor
from triton.runtime.errors import OutOfResources

from benchmarks import head_gate, head_inputs, measure
from benchmarks.head_inputs import HeadInputs
from benchmarks.measure import DTYPES

Choice = dict[str, Any]  # module.CONSTANT: value
TILES = {"triton_tiles.TILE": (64, 128), "triton_tiles.BLOCK_U": (64, 128),
         "triton_tiles.BLOCK_D": (32, 64, 128)}
HOT = {"triton_hot.HOT": (0, 1024, 2048, 4096)}  # 8 K columns at most: 4096 at K = 512
GATHERS = {"triton_sampled.BLOCK_K": (8, 16, 32), "triton_sampled.BLOCK_D": (128, 256)}


def choices() -> Iterator[tuple[Choice, tuple[str, ...]]]:
    """Each choice of constants, and the operations that it changes."""
    for axes, operations in ((TILES, ("logits", "dhidden")), (HOT, ("dweight",))):
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True)), operations
    for values in itertools.product(*GATHERS.values()):
        yield {"triton_tiles.suits": lambda *_: False} | dict(
            zip(GATHERS, values, strict=True)), ("logits", "dhidden", "dweight")


def _places(choice: Choice) -> list[tuple[Any, str, Any]]:
    """Module, constant and value of each."""
    modules = {"triton_tiles": triton_tiles, "triton_hot": triton_hot, "triton_sampled": triton_sampled}
    return [(modules[name.split(".")[0]], name.split(".")[1], value) for name, value in choice.items()]


def is_shipped(choice: Choice) -> bool:
    """Whether these are the constants as they are."""
    return all(getattr(module, name) == value for module, name, value in _places(choice))


@contextmanager
def chosen(choice: Choice) -> Iterator[None]:
    """The constants of the kernels' modules, for a while."""
    with ExitStack() as undo:
        for module, name, value in _places(choice):
            undo.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)
        yield


def overlapping_ids(n: int, vocab: int, k: int, device: str) -> Tensor:
    """[N, K] ids of which 64 neighbours share about as many as in real text (28 % distinct).

    Half of each row are ids common to all; the rest come from a pool that moves every 64 tokens.
    """
    generator = torch.Generator(device).manual_seed(0)
    common = torch.randperm(vocab, generator=generator, device=device)[: k // 2]
    rows = []
    for _ in range(0, n, 64):
        pool = torch.randperm(vocab, generator=generator, device=device)[: 22 * k]
        pool = pool[~torch.isin(pool, common)]
        for _ in range(64):
            own = pool[torch.randperm(len(pool), generator=generator, device=device)[: k - k // 2]]
            rows.append(torch.cat([common, own]))
    return torch.stack(rows)[:n]


def main() -> None:
    """Judge and time every choice that compiles; write JSON after each, so that a stop loses nothing."""
    parser = measure.parser(__doc__, n=8192, d=4096, v=128256, k=512, repeats=10)
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--limit", type=int, help="only the first so many choices")
    args = parser.parse_args()
    inputs, rows = _inputs(args, args.n), []
    for choice, operations in itertools.islice(choices(), args.limit):
        shown = {name: value for name, value in choice.items() if not callable(value)}
        shipped = is_shipped(choice)
        with chosen(choice):
            rows.append({"gather": "triton_tiles.suits" in choice, **shown, "shipped": shipped,
                         **_judged_and_timed(inputs, operations, args)})
        print(rows[-1], flush=True)
        measure.record(f"tune-tiles-{args.dtype}", args.device, {"rows": rows})
    # a choice may not fit the GPU; the constants as they are must
    wrong = [row for row in rows if not row["green"] and (row["green"] is False or row["shipped"])]
    raise SystemExit(1 if wrong else 0)


def _inputs(args: argparse.Namespace, n: int) -> HeadInputs:
    """Random vectors, and targets on overlapping ids."""
    inputs = head_inputs.random_inputs(n, args.d, args.v, args.k, DTYPES[args.dtype], args.device)
    ids = overlapping_ids(n, args.v, args.k, args.device)
    targets = TopKTargets(ids, inputs.targets.logprobs, inputs.targets.temperature,
                          vocab_size=args.v, checked=True)
    return replace(inputs, targets=targets, backend="triton")


def _judged_and_timed(inputs: HeadInputs, operations: tuple[str, ...], args: argparse.Namespace
                      ) -> dict[str, Any]:
    try:
        gate = head_gate.gate(inputs)
        return gate if not gate["green"] else gate | _times(inputs, operations, args)
    except (OutOfResources, torch.OutOfMemoryError) as error:
        return {"green": None, "error": f"{type(error).__name__}: {error}"[:200]}


def _times(inputs: HeadInputs, operations: tuple[str, ...], args: argparse.Namespace) -> dict[str, Any]:
    hidden, weight, ids = inputs.student_ND, inputs.weight_VD, inputs.targets.ids
    grad = torch.randn(ids.shape, device=ids.device)
    backward = triton_sampled.sampled_backward
    runs = {
        "logits": lambda: triton_sampled.sampled_logits(hidden, weight, ids, None),
        "dhidden": lambda: backward(grad, hidden, weight, ids, None, True, False),
        "dweight": lambda: backward(grad, hidden, weight, ids, None, False, True),
    }
    times = measure.in_turns({name: (runs[name],) for name in operations}, args.repeats, args.device)
    return {f"{name}_ms": parts[-1]["ms_p50"] for name, parts in times.items()}


if __name__ == "__main__":
    main()
