"""The loss head against its floor and its rivals, in one run.

    python -m benchmarks.head --n 1024 --model HuggingFaceTB/SmolLM2-135M-Instruct
    python -m benchmarks.head --device cuda --n 8192 --d 4096 --v 128256 --dtype bfloat16

Without --model the vectors are random. A red correctness gate prints no speed.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import head_gate, head_inputs, measure
from benchmarks.head_inputs import HeadInputs
from benchmarks.measure import DTYPES

COLUMNS = ("operation", "name", "ms_p20", "ms_p50", "ms_p80", "x_gemm", "tflops", "gathered_gbps",
           "extra_mib")


def main() -> None:
    """Gate, time, measure memory in a fresh process, print and write JSON."""
    args = _arguments()
    inputs = _inputs(args)
    if args.memory_only:
        print(json.dumps(_memory(inputs, args)))
        return
    gate = head_gate.require_green(inputs)
    rows = _times(inputs, args)
    extra = _memory(inputs, args) if args.device == "cuda" else measure.apart(
        "head", *sys.argv[1:], "--memory_only", **measure.HONEST_MALLOC)
    _put_beside_the_floor(rows, extra, inputs)
    size = {"source": inputs.source, "N": inputs.student_ND.shape[0], "V": inputs.weight_VD.shape[0],
            "D": inputs.weight_VD.shape[1], "K": inputs.targets.k, "dtype": args.dtype}
    measure.show(" ".join(f"{key}={value}" for key, value in size.items()), COLUMNS,
                 ([row.get(column, "") for column in COLUMNS]
                  for row in sorted(rows, key=lambda row: str(row["operation"]))))
    shape = f"n{size['N']}-v{size['V']}-d{size['D']}-{args.dtype}-{'real' if args.model else 'random'}"
    measure.record(f"head-{shape}", args.device, {"inputs": size, "gate": gate, "rows": rows})


def _arguments() -> argparse.Namespace:
    parser = measure.parser(__doc__, n=1024, d=576, v=49152, k=512, repeats=5)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", help="take states, weight and ids from this model ...")
    parser.add_argument("--text", type=Path, help="... on these rows instead of the quickstart's")
    parser.add_argument("--enlarge", action="store_true",
                        help="real ids spread over --v, random vectors of --d")
    parser.add_argument("--memory_only", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _inputs(args: argparse.Namespace) -> HeadInputs:
    dtype = DTYPES[args.dtype]
    if args.model is None:
        return head_inputs.random_inputs(args.n, args.d, args.v, args.k, dtype, args.device)
    if args.enlarge:
        return head_inputs.enlarged_inputs(
            args.model, args.text, args.n, args.d, args.v, args.k, dtype, args.device)
    return head_inputs.model_inputs(args.model, args.text, args.n, args.k, dtype, args.device)


def _times(inputs: HeadInputs, args: argparse.Namespace) -> list[dict[str, Any]]:
    cases: dict[str, measure.Stages] = {
        "one GEMM/torch.mm": (lambda: inputs.student_ND @ inputs.weight_VD.T,)}
    for name, run in head_gate.selections(inputs).items():
        cases[f"select/{name}"] = (run,)
    for name, loss in head_gate.losses(inputs, args.device).items():
        for operation, frozen in (("loss", False), ("frozen loss", True)):
            hidden, weight = head_gate.leaves(inputs, frozen)
            cases[f"{operation}/{name}"] = (
                lambda f=loss, h=hidden, w=weight: f(h, w),
                lambda out, h=hidden, w=weight: head_gate.gradients(out, h, w),
            )
    rows = []
    for case, stages in measure.in_turns(cases, args.repeats, args.device).items():
        operation, name = case.split("/")
        parts = ("forward", "backward", "both") if len(stages) == 3 else ("",)
        for part, times in zip(parts, stages, strict=False):
            rows.append({"operation": f"{operation} {part}".strip(), "name": name, **times})
    return rows


def _memory(inputs: HeadInputs, args: argparse.Namespace) -> dict[str, int]:
    """Extra bytes of select and of the loss forward + backward, without outputs and gradients."""
    outputs = {"select": inputs.targets.ids.numel() * 12,
               "loss both": inputs.student_ND.nbytes + inputs.weight_VD.nbytes}
    runs: dict[str, Callable[[], Any]] = {
        f"select/{name}": run for name, run in head_gate.selections(inputs).items()}
    for name, loss in head_gate.losses(inputs, args.device).items():
        hidden, weight = head_gate.leaves(inputs)
        runs[f"loss both/{name}"] = lambda f=loss, h=hidden, w=weight: (  # type: ignore[misc]
            head_gate.gradients(f(h, w), h, w))
    extra = {}
    for name, run in runs.items():
        run()
        peak = measure.extra_memory(run, args.device)
        extra[name] = max(0, peak - outputs[name.split("/")[0]])
    return extra


def _put_beside_the_floor(rows: list[dict[str, Any]], extra: dict[str, int], inputs: HeadInputs) -> None:
    n, d = inputs.student_ND.shape
    vocab, k, size = inputs.weight_VD.shape[0], inputs.targets.k, inputs.weight_VD.element_size()
    gemm = rows[0]["ms_p50"]
    passes = {"loss forward": 1, "loss backward": 2, "loss both": 3, "frozen loss forward": 1,
              "frozen loss backward": 1, "frozen loss both": 2}
    for row in rows:
        seconds, operation = row["ms_p50"] / 1e3, row["operation"]
        row["x_gemm"] = round(row["ms_p50"] / gemm, 3)
        if operation in ("one GEMM", "select"):
            row["tflops"] = round(2 * n * vocab * d / seconds / 1e12, 4)
        elif row["name"] == head_gate.OURS:  # gathered rows, the traffic a cache may save
            row["gathered_gbps"] = round(passes[operation] * n * k * d * size / seconds / 1e9, 2)
        held = extra.get(f"{operation}/{row['name']}")
        if held is not None:
            row["extra_mib"] = round(held / 2**20, 1)


if __name__ == "__main__":
    main()
