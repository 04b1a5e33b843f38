"""Cost against N, V and K: straight lines where they should be.

    python -m benchmarks.scaling [--device cuda --d 4096 --dtype bfloat16]

Select should grow with N and V and hardly with K; the loss with N and K and, but for the weight
gradient's own V x D, not with V. Reports the slope of each line on logarithmic axes: 1 is proportional,
0 flat. A red correctness gate at any size prints no speed.
"""

import argparse
import math
import statistics
from typing import Any

from raft_kernels import topk_kl_loss, topk_targets

from benchmarks import head_gate, head_inputs, measure
from benchmarks.measure import DTYPES

BASE = {"n": 256, "v": 16384, "k": 128}
SWEEPS = {"n": [128, 256, 512, 1024], "v": [8192, 16384, 32768, 65536], "k": [64, 128, 256, 512]}


def main() -> None:
    """Run the sweeps, print and write JSON."""
    parser = measure.parser(__doc__, d=256, repeats=7)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--axes", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--scale", type=int, default=1, help="multiplies N and V")
    args = parser.parse_args()
    sweeps = [_sweep(axis, args) for axis in args.axes]
    for sweep in sweeps:
        for operation, line in sweep["operations"].items():
            print(f"{operation:32s} against {sweep['axis']}: slope {line['log_log_slope']:5.2f}  "
                  + "  ".join(f"{v}: {ms:.1f} ms" for v, ms in line["ms_p20"].items()))
    measure.record(f"scaling-{args.dtype}", args.device, {"d": args.d, "base": BASE, "sweeps": sweeps})


def _sweep(axis: str, args: argparse.Namespace) -> dict[str, Any]:
    times: dict[str, dict[str, float]] = {}
    for value in SWEEPS[axis]:
        size = BASE | {axis: value}
        inputs = head_inputs.random_inputs(size["n"] * args.scale, args.d, size["v"] * args.scale, size["k"],
                                           DTYPES[args.dtype], args.device)
        print(axis, value, end=" ")
        head_gate.require_green(inputs)
        cases: dict[str, measure.Stages] = {
            "select": (lambda i=inputs: topk_targets(i.teacher_ND, i.weight_VD, i.targets.k),)}
        for name, frozen in (("loss", False), ("loss, frozen head", True)):
            leaves = head_gate.leaves(inputs, frozen)
            cases[name] = (lambda i=inputs, both=leaves: head_gate.gradients(
                topk_kl_loss(both[0], both[1], i.targets), *both),)
        for operation, parts in measure.in_turns(cases, args.repeats, args.device).items():
            times.setdefault(operation, {})[str(value)] = parts[-1]["ms_p20"]
    return {"axis": axis.upper(), "operations": {
        operation: {"ms_p20": line, "log_log_slope": round(_slope(line), 3)}
        for operation, line in times.items()}}


def _slope(line: dict[str, float]) -> float:
    return statistics.linear_regression([math.log(float(value)) for value in line],
                                        [math.log(ms) for ms in line.values()]).slope


if __name__ == "__main__":
    main()
