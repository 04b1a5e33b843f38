"""Cost against N, V and K: straight lines where they should be.

    python -m benchmarks.scaling [--device cuda --d 4096 --dtype bfloat16]

Select should grow with N and V and hardly with K; the loss with N and K and, but for the weight
gradient's own V x D, not with V. Reports the slope of each line on
logarithmic axes: 1 is proportional, 0 flat. A red correctness gate at any size prints no speed.
"""

import argparse
import json
import math
from typing import Any

import torch
from raft_kernels import topk_kl_loss, topk_targets

from benchmarks import head_gate, head_inputs, measure
from benchmarks.head import DTYPES

BASE = {"n": 256, "v": 16384, "k": 128}
SWEEPS = {"n": [128, 256, 512, 1024], "v": [8192, 16384, 32768, 65536], "k": [64, 128, 256, 512]}


def main() -> None:
    """Run the three sweeps, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--d", type=int, default=256)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--axes", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--scale", type=int, default=1, help="multiplies N and V")
    args = parser.parse_args()
    sweeps = [_sweep(axis, args) for axis in args.axes]
    for sweep in sweeps:
        for operation, line in sweep["operations"].items():
            print(f"{operation:32s} against {sweep['axis']}: slope {line['log_log_slope']:5.2f}  "
                  + "  ".join(f"{v}: {ms:.1f} ms" for v, ms in line["ms_p20"].items()))
    path = measure.results_folder(args.device) / f"scaling-{args.dtype}.json"
    path.write_text(json.dumps({
        "command": measure.command(), "machine": measure.machine(args.device), "d": args.d,
        "base": BASE, "sweeps": sweeps}, indent=1) + "\n")


def _sweep(axis: str, args: argparse.Namespace) -> dict[str, Any]:
    times: dict[str, dict[str, float]] = {}
    for value in SWEEPS[axis]:
        size = BASE | {axis: value}
        size["n"], size["v"] = size["n"] * args.scale, size["v"] * args.scale
        inputs = head_inputs.random_inputs(
            size["n"], args.d, size["v"], size["k"], DTYPES[args.dtype], args.device)
        print(axis, value, end=" ")
        head_gate.require_green(inputs)
        hidden = inputs.student_ND.requires_grad_()
        frozen, trained = inputs.weight_VD, inputs.weight_VD.detach().requires_grad_()

        def both(*leaves: torch.Tensor, h: Any = hidden, targets: Any = inputs.targets) -> Any:
            return torch.autograd.grad(topk_kl_loss(h, leaves[-1], targets), list(leaves))

        cases: dict[str, measure.Stages] = {
            "select": (lambda i=inputs, k=size["k"]: topk_targets(i.teacher_ND, i.weight_VD, k),),
            "loss": (lambda h=hidden, w=trained, run=both: run(h, w),),
            "loss, frozen head": (lambda h=hidden, w=frozen, i=inputs: torch.autograd.grad(
                topk_kl_loss(h, w, i.targets), h),),
        }
        for operation, parts in measure.in_turns(cases, args.repeats, args.device).items():
            times.setdefault(operation, {})[str(value)] = parts[-1]["ms_p20"]
    return {"axis": axis.upper(), "operations": {
        operation: {"ms_p20": line, "log_log_slope": round(_slope(line), 3)}
        for operation, line in times.items()}}


def _slope(line: dict[str, float]) -> float:
    x = torch.tensor([math.log(float(v)) for v in line], dtype=torch.float64)
    y = torch.tensor([math.log(ms) for ms in line.values()], dtype=torch.float64)
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


if __name__ == "__main__":
    main()
