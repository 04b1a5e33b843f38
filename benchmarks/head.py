"""The loss head against its floor and its rivals, in one run.

    python -m benchmarks.head --n 1024 --model HuggingFaceTB/SmolLM2-135M-Instruct --text faq.jsonl
    python -m benchmarks.head --device cuda --n 8192 --d 4096 --v 128256 --dtype bfloat16

Without --model the vectors are random. A red correctness gate prints no speed.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from raft_kernels import reference
from torch import Tensor

from benchmarks import head_inputs, head_rivals, measure
from benchmarks.head_inputs import HeadInputs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main() -> None:
    """Gate, time, measure memory in a fresh process, print, and write JSON and a plot."""
    args = _arguments()
    inputs = _inputs(args)
    if args.memory_only:
        print(json.dumps(_memory(inputs, args)))
        return
    gate = _gate(inputs)
    print("correctness gate:", json.dumps(gate))
    if not gate["green"]:
        raise SystemExit("the gate is red: no speed is shown for wrong results")
    rows = _times(inputs, args)
    extra = _memory(inputs, args) if args.device == "cuda" else _memory_in_a_fresh_process()
    _put_beside_the_floor(rows, extra, inputs)
    result = {
        "command": measure.command(), "machine": measure.machine(args.device),
        "inputs": {"source": inputs.source, "N": inputs.student_ND.shape[0],
                   "V": inputs.weight_VD.shape[0], "D": inputs.weight_VD.shape[1],
                   "K": inputs.targets.k, "dtype": args.dtype},
        "gate": gate, "rows": rows,
    }
    _print(result)
    shape = f"n{args.n}-v{result['inputs']['V']}-{args.dtype}-{'real' if args.model else 'random'}"
    path = measure.results_folder(args.device) / f"head-{shape}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    _plot(result, path.with_suffix(".svg"))
    print(f"written to {path.relative_to(Path.cwd())} and {path.stem}.svg")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--n", type=int, default=1024, help="tokens")
    parser.add_argument("--d", type=int, default=576, help="hidden size of random vectors")
    parser.add_argument("--v", type=int, default=49152, help="vocabulary of random vectors")
    parser.add_argument("--k", type=int, default=512)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", help="take states, weight and ids from this model ...")
    parser.add_argument("--text", type=Path, help="... on this JSONL of q/a rows")
    parser.add_argument("--enlarge", action="store_true",
                        help="real ids spread over --v, random vectors of --d")
    parser.add_argument("--repeats", type=int, default=5)
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


def _leaves(inputs: HeadInputs, frozen: bool = False) -> tuple[Tensor, Tensor]:
    return (inputs.student_ND.detach().requires_grad_(),
            inputs.weight_VD.detach().requires_grad_(not frozen))


def _gradients(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, [leaf for leaf in leaves if leaf.requires_grad])


def _gate(inputs: HeadInputs, rows: int = 256) -> dict[str, Any]:
    """Errors against the float64 reference; allowed: 3 x those of dense logits, and rounding.

    The runs judged are those that are timed, on all the tokens: every token's loss and gradient,
    and the log-probs of every id selected. An id may differ from the reference's only where the
    float64 log-probs of the two are within that rounding.
    """
    names = head_rivals.OURS, "dense logits, then gather"
    hidden, weight = _leaves(inputs)
    runs: dict[str, list[Tensor]] = {}
    for name in names:
        loss = head_rivals.losses(inputs, hidden.device.type)[name](hidden, weight)
        runs[name] = [loss.detach(), *_gradients(loss, hidden, weight)]
    oracle = _oracle_loss(inputs, rows)
    select, dense_select = head_rivals.selections(inputs).values()
    targets = select()
    got = {names[0]: (targets.ids, targets.logprobs), names[1]: dense_select()}
    errors = {name: _errors(runs[name], oracle) + _select_errors(*got[name], inputs, rows)
              for name in names}
    ours, usual = errors[names[0]], errors[names[1]]
    floor = max(2 * torch.finfo(inputs.weight_VD.dtype).eps, 16 * torch.finfo(torch.float32).eps)
    green = all(a <= 3 * b + floor for a, b in zip(ours, usual, strict=True))
    return {"green": green, "error of loss, dHidden, its worst token, dWeight, log-probs, ids": {
        name: [float(f"{e:.2g}") for e in values] for name, values in errors.items()}}


def _oracle_loss(inputs: HeadInputs, rows: int) -> list[Tensor]:
    """Loss, dHidden and dWeight by `reference` in float64, `rows` tokens at a time."""
    n, t = inputs.student_ND.shape[0], inputs.targets
    weight = inputs.weight_VD.detach().double().requires_grad_()
    total, dweight, dhidden = 0.0, torch.zeros_like(weight), []
    for first in range(0, n, rows):
        part = slice(first, first + rows)
        hidden = inputs.student_ND[part].detach().double().requires_grad_()
        loss = reference.token_loss(
            reference.logits(hidden, weight), t.ids[part], t.logprobs[part].double(), t.temperature
        ).sum() / n
        of_hidden, of_weight = torch.autograd.grad(loss, [hidden, weight])
        total += loss.item()
        dweight += of_weight
        dhidden.append(of_hidden)
    return [torch.tensor(total, dtype=torch.float64, device=weight.device),
            torch.cat(dhidden), dweight]


def _errors(got: list[Tensor], oracle: list[Tensor]) -> list[float]:
    """Relative errors; of dHidden also the worst token's, so that a few rows cannot hide."""
    loss, dhidden, dweight = (_relative(a, b) for a, b in zip(got, oracle, strict=True))
    off_N = (got[1].double() - oracle[1]).norm(dim=-1)
    size_N = oracle[1].norm(dim=-1)
    worst = float((off_N / size_N.clamp_min(1e-3 * float(size_N.max()))).max())
    return [loss, dhidden, worst, dweight]


def _select_errors(
    ids_NK: Tensor, logprobs_NK: Tensor, inputs: HeadInputs, rows: int
) -> list[float]:
    """The worst log-prob, and how far the worst id's is from its rank's; inf for repeats."""
    n, (k, t) = inputs.teacher_ND.shape[0], (inputs.targets.k, inputs.targets.temperature)
    weight = inputs.weight_VD.double()
    worst = cut = 0.0
    for first in range(0, n, rows):
        part = slice(first, first + rows)
        logits = reference.logits(inputs.teacher_ND[part].double(), weight)
        _, right = reference.select(logits, k, t)
        own = torch.log_softmax(logits / t, -1).gather(-1, ids_NK[part])
        ordered = ids_NK[part].sort(-1).values
        if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
            cut = float("inf")
        worst = max(worst, float((logprobs_NK[part].double() - own).abs().max()))
        cut = max(cut, float((right - own).abs().max()))
    return [worst, cut]


def _relative(got: Tensor, right: Tensor) -> float:
    return float((got.double() - right).norm() / right.norm())


def _times(inputs: HeadInputs, args: argparse.Namespace) -> list[dict[str, Any]]:
    cases: dict[str, measure.Stages] = {
        "one GEMM/torch.mm": (lambda: inputs.student_ND @ inputs.weight_VD.T,)}
    for name, run in head_rivals.selections(inputs).items():
        cases[f"select/{name}"] = (run,)
    for name, loss in head_rivals.losses(inputs, args.device).items():
        for operation, frozen in (("loss", False), ("frozen loss", True)):
            hidden, weight = _leaves(inputs, frozen)
            cases[f"{operation}/{name}"] = (
                lambda f=loss, h=hidden, w=weight: f(h, w),
                lambda out, h=hidden, w=weight: _gradients(out, h, w),
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
    runs = {f"select/{name}": run for name, run in head_rivals.selections(inputs).items()}
    for name, loss in head_rivals.losses(inputs, args.device).items():
        hidden, weight = _leaves(inputs)
        runs[f"loss both/{name}"] = lambda f=loss, h=hidden, w=weight: _gradients(f(h, w), h, w)
    extra = {}
    for name, run in runs.items():
        run()
        peak = measure.extra_memory(run, args.device)
        extra[name] = max(0, peak - outputs[name.split("/")[0]])
    return extra


def _memory_in_a_fresh_process() -> dict[str, int]:
    line = [sys.executable, "-m", "benchmarks.head", *sys.argv[1:], "--memory_only"]
    environment = os.environ | measure.HONEST_MALLOC
    out = subprocess.run(line, env=environment, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out.splitlines()[-1]))


def _put_beside_the_floor(
    rows: list[dict[str, Any]], extra: dict[str, int], inputs: HeadInputs
) -> None:
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
        elif row["name"] == head_rivals.OURS:  # gathered rows, the traffic a cache may save
            row["gathered_gbps"] = round(passes[operation] * n * k * d * size / seconds / 1e9, 2)
        held = extra.get(f"{operation}/{row['name']}")
        if held is not None:
            row["extra_mib"] = round(held / 2**20, 1)


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=" ".join(f"{k}={v}" for k, v in result["inputs"].items()))
    columns = ["operation", "name", "ms_p20", "ms_p50", "ms_p80", "x_gemm", "tflops",
               "gathered_gbps", "extra_mib"]
    for column in columns:
        table.add_column(column)
    for row in sorted(result["rows"], key=lambda r: r["operation"]):
        table.add_row(*(str(row.get(column, "")) for column in columns))
    Console(width=150).print(table)


def _plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "head"  # the same figures give the same file
    from matplotlib import pyplot as plt

    rows = [r for r in result["rows"] if r["operation"] in ("select", "loss both", "one GEMM")]
    rows.sort(key=lambda r: (r["operation"], r["ms_p50"]), reverse=True)
    figure, axes = plt.subplots(figsize=(9, 0.45 * len(rows) + 1))
    colours = ["tab:blue" if r["name"] == head_rivals.OURS else "tab:grey" for r in rows]
    labels = [f"{r['operation']}: {r['name']}" for r in rows]
    axes.barh(labels, [r["ms_p50"] for r in rows], color=colours)
    axes.set_xlabel("milliseconds, median")
    shape = result["inputs"]
    axes.set_title(f"N={shape['N']} V={shape['V']} D={shape['D']} K={shape['K']} {shape['dtype']}")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
