"""A whole training step and its three parts, beside TRL's trainers on the same rows and trajectories.

    python -m benchmarks.step
    python -m benchmarks.step --model random-llama-3b --device cuda --rows 16 --max_completion_length 256

Every contender is a process of its own, in turns with the others. All sample by the same engine, and a
learning rate of nearly zero lets them sample the same trajectories in every step. Counted are steps 3, 5, 6,
7, 9, ...: the first one warms up, and in steps 1, 2, 4, 8 our loop compares log-probabilities with its
engine.
A red correctness gate and no speed is printed; a step in which contenders read other tokens is not counted.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import fields
from functools import partial
from typing import Any

import torch

from benchmarks import measure
from benchmarks.step import ours, table, trl_trainers
from benchmarks.step.gate import gate
from benchmarks.step.inputs import Job
from raft_fast.distillation.metrics import peak_memory
from raft_fast.run.options.data import SMOLLM2

CONTENDERS = {
    table.OURS: partial(ours.run, sft=True),
    table.ALONE: partial(ours.run, sft=False),
    table.SDFT: partial(trl_trainers.run, name="SDFTTrainer"),
    table.DISTILLATION: partial(trl_trainers.run, name="DistillationTrainer"),
}
GATE = "gate"


def main() -> None:
    """Gate, contenders in turns, a table and JSON."""
    args = _arguments()
    job = Job(**{field.name: getattr(args, field.name) for field in fields(Job) if hasattr(args, field.name)})
    if args.only:
        print(json.dumps(_alone(job, args.only)))
        return
    checked = _apart(GATE)
    print("correctness gate:", json.dumps(checked), flush=True)
    if not checked["green"]:
        raise SystemExit("the gate is red: no speed is shown for wrong results")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in args.contenders}
    for _ in range(args.rounds):
        for name in args.contenders:
            found[name].append(_apart(name))
            print(f"{name}: {found[name][-1]['seconds']:.1f} s", flush=True)
    result = {"command": measure.command(), "machine": measure.machine(job.device) | _versions(),
              "job": vars(job), "load_at_end": os.getloadavg(), "gate": checked, **table.summarise(found)}
    table.show(result)
    name = job.model.rsplit("/")[-1].lower()
    path = measure.results_folder(job.device) / f"step-{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {os.path.relpath(path)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step",
                                     description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--model", default=SMOLLM2, help="or random-llama-3b, of random weights")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rows", type=int, default=16, help="of a step; the paper's batch")
    parser.add_argument("--steps", type=int, default=10,
                        help="of a round; steps 0, 1, 2, 4, 8, ... are made and not counted")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--max_completion_length", type=int, default=48)
    parser.add_argument("--top_k", type=int, default=512)
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--only", choices=[*CONTENDERS, GATE], help=argparse.SUPPRESS)
    return parser.parse_args()


def _alone(job: Job, name: str) -> dict[str, Any]:
    """What a contender's process hands back."""
    if name == GATE:
        return gate(job)
    steps = CONTENDERS[name](job)
    return {"steps": steps, "seconds": sum(step["seconds"] for step in steps),
            "peak_bytes": peak_memory(torch.device(job.device))}


def _apart(name: str) -> dict[str, Any]:
    """`name` in a process of its own."""
    line = [sys.executable, "-m", "benchmarks.step", *sys.argv[1:], "--only", name]
    environment = os.environ | {"TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("transformers", "trl", "accelerate")}


if __name__ == "__main__":
    main()
