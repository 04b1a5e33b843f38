"""A whole training step and its three parts, beside TRL's trainers on the same rows and trajectories.

    python -m benchmarks.step
    python -m benchmarks.step --model random-llama-3b --device cuda --rows 16 --max_completion_length 256

Every contender is a process of its own, in turns with the others. All sample by the same engine, and a
learning rate of nearly zero lets them sample the same trajectories in every step. Counted are steps 3, 5, 6,
7, 9, ...: the first one warms up, and in steps 1, 2, 4, 8 our loop compares log-probabilities with its
engine. After a red correctness gate no speed is printed; steps in which contenders read different tokens are
not counted.
"""

import argparse
import json
import statistics
import sys
from dataclasses import fields
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from benchmarks import measure
from benchmarks.step import ours, trl_trainers
from benchmarks.step.gate import gate
from benchmarks.step.ours import Job
from raft_fast.distillation.loop import peak_memory
from raft_fast.run.options import SMOLLM2

OURS, ALONE = "raft-fast", "raft-fast, KL alone"
SDFT, DISTILLATION = "TRL SDFTTrainer", "TRL DistillationTrainer"
CONTENDERS = {
    OURS: partial(ours.run, sft=True), ALONE: partial(ours.run, sft=False),
    SDFT: partial(trl_trainers.run, name="SDFTTrainer"),
    DISTILLATION: partial(trl_trainers.run, name="DistillationTrainer"),
}
GATE = "gate"
# the tokens that a part reads, and its seconds
PARTS = {"rollout": ("rollout_tokens", ("rollout_seconds",)),
         "teacher": ("teacher_tokens", ("teacher_seconds",)),
         "train": ("student_tokens", ("train_seconds",)),
         "teacher and train": ("student_tokens", ("teacher_seconds", "train_seconds")),
         "step": ("student_tokens", ("seconds",))}
# at equal work with the nearest trainer, in tokens a second: answers that only RAFT reads are not speed
GOALS = {"teacher": 2.0, "train": 2.0, "step": 1.5}
LEAST = 3  # steps counted: a median of fewer is no more than one of them
Runs = dict[str, list[dict[str, Any]]]
"""Contender -> what its process handed back, of every round."""


def main() -> None:
    """Gate, contenders in turns, a table and JSON."""
    parser = measure.parser(__doc__, rows=16, rounds=1, max_completion_length=48, top_k=512)
    parser.add_argument("--steps", type=int, default=10,
                        help="of a round (default: 10); 0, 1, 2, 4, 8, ... are made and not counted")
    parser.add_argument("--model", default=SMOLLM2, help="or random-llama-3b, of random weights")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["auto", "float32", "bf16"], default="auto",
                        help="of all contenders")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--only", choices=[*CONTENDERS, GATE], help=argparse.SUPPRESS)
    args = parser.parse_args()
    job = Job(**{field.name: getattr(args, field.name) for field in fields(Job) if hasattr(args, field.name)})
    if args.only:
        print(json.dumps(gate(job) if args.only == GATE else alone(job, args.only)))
        return
    checked = apart(GATE)
    print("correctness gate:", json.dumps(checked), flush=True)
    if not checked["green"]:
        raise SystemExit("the gate is red: no speed is shown for wrong results")
    found: Runs = {name: [] for name in args.contenders}
    for _ in range(args.rounds):
        for name in args.contenders:
            found[name].append(apart(name))
            print(f"{name}: {found[name][-1]['seconds']:.1f} s", flush=True)
    result = summarise(found)
    show(result)
    measure.record(f"step-{job.model.rsplit('/')[-1].lower()}", job.device, {
        "job": vars(job), "gate": checked, **result,
        "versions": {name: version(name) for name in ("transformers", "trl", "accelerate")}})


def alone(job: Job, name: str) -> dict[str, Any]:
    """One contender in this process: its steps, their seconds, its peak memory."""
    steps = CONTENDERS[name](job)
    return {"steps": steps, "seconds": sum(step["seconds"] for step in steps),
            "peak_bytes": peak_memory(torch.device(job.device))}


def apart(name: str) -> Any:
    """`name` in a process of its own."""
    return measure.apart("step", *sys.argv[1:], "--only", name, TRL_EXPERIMENTAL_SILENCE="1")


def other_tokens(found: Runs) -> dict[int, str]:
    """Steps in which contenders that should read the same tokens did not, with what each read: a trajectory
    may end elsewhere where a rounding moves one draw, and its step compares nothing."""
    groups = {"rollout_tokens": list(found), "student_tokens": [ALONE, SDFT, DISTILLATION],
              "teacher_tokens": [OURS, ALONE, SDFT]}
    told: dict[int, str] = {}
    for key, names in groups.items():
        for index in range(len(next(iter(found.values()))[0]["steps"])):
            read = {name: sorted({one["steps"][index][key] for one in found[name]})
                    for name in names if name in found}
            if len({count for counts in read.values() for count in counts}) > 1:
                each = ", ".join(f"{name} {counts}" for name, counts in read.items())
                told.setdefault(index, f"{key} {each}")
    return told


def summarise(found: Runs) -> dict[str, Any]:
    """Figures of every contender, and how many times TRL's tokens a second ours are.

    Left out, of all of them: the first step, which warms up; those in which our loop compares
    log-probabilities with its rollout engine (refills 1, 2, 4, 8, ...), a check that is not part of sampling;
    and those of `other_tokens`.
    """
    others = other_tokens(found)
    runs = [one["steps"] for rounds in found.values() for one in rounds]
    counted = [index for index in range(1, len(runs[0])) if index not in others
               and not any(steps[index].get("compared") for steps in runs)]
    if len(counted) < LEAST:
        raise SystemExit(f"--steps: {len(counted)} would be counted, too few: steps 0, 1, 2, 4, 8, ... are "
                         f"not, nor those in which contenders read other tokens: {others or 'none'}")
    contenders = {name: figures(rounds, counted) for name, rounds in found.items()}
    ratios = {f"{own} / {rival}": compared(contenders[own], contenders[rival])
              for own in (OURS, ALONE) for rival in (SDFT, DISTILLATION)
              if own in contenders and rival in contenders}
    return {"contenders": contenders, "ratios": ratios, "steps_counted": counted, "other_tokens": others}


def figures(rounds: list[dict[str, Any]], counted: list[int]) -> dict[str, Any]:
    """Quartiles of each part over the counted steps of all rounds, and of a step's share outside of them."""
    steps = [one["steps"][index] for one in rounds for index in counted]
    parts = {}
    for part, (tokens, keys) in PARTS.items():
        seconds = [sum(step[key] for key in keys) for step in steps]
        parts[part] = {"seconds": quartiles(seconds), "tokens_per_second": quartiles(
            [step[tokens] / spent for step, spent in zip(steps, seconds, strict=True)])}
    outside = [1 - sum(step[f"{part}_seconds"] for part in ("rollout", "teacher", "train")) / step["seconds"]
               for step in steps]
    return {"parts": parts, "outside_share": quartiles(outside), "steps": steps,
            "peak_bytes": max(one["peak_bytes"] for one in rounds)}


def quartiles(values: list[float]) -> list[float]:
    """25, 50 and 75 %."""
    return [round(value, 5) for value in statistics.quantiles(values, n=4, method="inclusive")]


def compared(own: dict[str, Any], rival: dict[str, Any]) -> dict[str, float]:
    """Our tokens a second over the rival's, by part, and peak memory over its."""
    speeds = {part: own["parts"][part]["tokens_per_second"][1] / rival["parts"][part]["tokens_per_second"][1]
              for part in PARTS}
    return {part: round(ratio, 2) for part, ratio in speeds.items()} | {
        "peak memory": round(own["peak_bytes"] / rival["peak_bytes"], 3)}


def show(result: dict[str, Any]) -> None:
    """Speeds and memory as a table, with the goals below it."""
    rows = []
    for name, one in result["contenders"].items():
        quarters = (one["parts"][part]["tokens_per_second"] for part in PARTS)
        rows.append([name, *(f"{middle:.0f} ({low:.0f} - {high:.0f})" for low, middle, high in quarters),
                     f"{one['peak_bytes'] / 2**30:.2f}", f"{one['outside_share'][1]:.1%}"])
    for pair, ratio in result["ratios"].items():
        rows.append([pair, *(f"{ratio[part]:.2f} x" for part in PARTS), f"{ratio['peak memory']:.2f} x", ""])
    rows.append([f"goal for {ALONE} / {SDFT}", *(f">= {GOALS[part]} x" if part in GOALS else ""
                                               for part in PARTS), "< 1 x", "< 3 %"])
    measure.show("tokens a second: median (25 - 75 %)", ("", *PARTS, "peak GiB", "outside"), rows)


if __name__ == "__main__":
    main()
