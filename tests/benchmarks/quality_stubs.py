"""A comparison's folder as a run leaves it, in the format of its first release; no model is needed."""

import json
import math
from pathlib import Path

import numpy as np

METHODS = {  # gain at rate 1e-5, KL per gain, weights moved per gain, options
    "sft": (0.50, 0.30, 0.011, {"distillation": False, "data_source": "gold", "balance": "ema"}),
    "sdft": (0.35, 0.24, 0.010, {"distillation": False, "data_source": "rewrite", "balance": "ema"}),
    "raft": (0.42, 0.14, 0.007, {}),
    "raft_lambda01": (0.48, 0.27, 0.010, {"balance": "fixed", "fixed_lambda": 0.1}),
    "raft_gradient": (0.47, 0.15, 0.008, {"balance": "gradient"}),
    "on_policy": (0.30, 0.20, 0.009, {"data_source": "gold", "teacher_sees_answer": False}),
}
OPTIONS = {"distillation": True, "teacher_sees_answer": True, "data_source": "fused", "balance": "ema",
           "fixed_lambda": 1.0, "tau": 0.8, "model": "tiny"}
HOSTILE = "<script>alert(1)</script>|"
RATES, STEPS, TRAINED = (1e-5, 3e-5), (15, 30), 30


def write(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_lines(path: Path, records) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def make_folder(folder: Path, rows: int = 24, seeds: int = 1, methods=tuple(METHODS), effect: float = 1.0,
                hostile: str = "", paraphrases: bool = True) -> Path:
    """`effect` 0 makes all methods the same in everything; `hostile` stands wherever data can."""
    dice = np.random.default_rng(0)
    hard = dice.normal(0, 0.5, rows)
    cells, done = [], []
    for method in methods:
        gain, kl, moved, own = METHODS[method]
        if effect == 0:
            gain, kl, moved, _ = METHODS["sft"]
        for rate in RATES:
            for seed in range(seeds):
                name = f"{method}-lr{rate:g}-seed{seed}-0123456789"
                cell = folder / "cells" / name
                options = {**OPTIONS, **own, "learning_rate": rate, "seed": seed}
                about = {"name": name[:-11], "method": method, "folder": name, "steps": list(STEPS),
                         "rows": 48, "options": options, "seconds_of_the_last_process": 1.0}
                write(cell / "cell.json", about)
                write_lines(cell / "metrics.jsonl", curve(options, np.random.default_rng(seed)))
                for step in STEPS:
                    learnt = gain * (rate / 1e-5) ** 0.5 * (step / 30) ** 0.5
                    point = values(hard, learnt, kl * learnt**1.5, np.random.default_rng(
                        [seed, step, int(1e7 * rate)]), paraphrases)
                    write(cell / f"point-{step:06d}.json", {
                        "method": method, "learning_rate": rate, "seed": seed, "step": step,
                        "values": point, "means": means(point),
                        "extra": {"weights": {"all": moved * learnt, "parts": {"layer 0": moved}}}})
                    write_lines(cell / f"point-{step:06d}.generations.jsonl",
                                answers(rows, f"{method} at {step}", 8 + int(10 * learnt), hostile))
                cells.append(about)
                done.append(name)
    base = values(hard, 0.0, 0.0, np.random.default_rng(9), paraphrases)
    write(folder / "base-point-ffffffffff.json", {
        "method": "base", "learning_rate": 0.0, "seed": 0, "step": 0, "values": base,
        "means": means(base), "extra": {"weights": None}})
    write_lines(folder / "base.generations.jsonl", answers(rows, "base", 12, hostile))
    write(folder / "results.json", {
        "suite": "cpu", "baseline": "sft", "model": f"tiny{hostile}", "data": f"rows{hostile}.jsonl",
        "rows": {"train": 48, "heldout": rows}, "planned": [cell["name"] for cell in cells],
        "command": "python -m benchmarks.quality", "machine": {"device": f"cpu{hostile}", "threads": 2},
        "base": {"means": means(base)}, "cells": cells})
    return folder


def values(hard, learnt, kl, dice, paraphrases) -> dict:
    """A point's values; more is learnt of every row alike, give or take."""
    rows, prompts = len(hard), 12
    noise = dice.normal(0, 0.02, rows)
    parts = {"domain": 0.0, **({"paraphrases": 0.4} if paraphrases else {})}
    found = {}
    for part, easier in parts.items():
        nll = 3.7 - easier + hard - learnt * (1 + easier) + (noise if learnt else 0)
        f1 = np.clip(0.2 + 0.3 * learnt * (1 + easier) + 0.1 * hard, 0, 1)
        found |= {f"{part}.nll": [[20 * one, 20] for one in nll],
                  f"{part}.token_f1": [[one, 1.0] for one in f1],
                  f"{part}.similarity": [[min(1, one + 0.4), 1.0] for one in f1],
                  f"{part}.number_f1": [None if place % 3 else [one, 1.0] for place, one in enumerate(f1)]}
    spread = 1 + 0.3 * dice.random(prompts)
    found |= {"own.kl": [[32 * kl * one, 32] for one in spread],
              "own.nll": [[32 * (0.7 + kl * one), 32] for one in spread],
              "text.nll": [[40 * (3 + 0.5 * kl * one), 40] for one in spread],
              "general.strict_instruction": [[float(one > 0.4 + kl), 1] for one in dice.random(prompts)]}
    return found


def means(values) -> dict:
    known = {name: [pair for pair in pairs if pair] for name, pairs in values.items()}
    return {name: sum(pair[0] for pair in pairs) / sum(pair[1] for pair in pairs) if pairs else None
            for name, pairs in known.items()}


def answers(rows: int, who: str, words: int, hostile: str) -> list[dict]:
    said = [{"suite": part, "model": who, "row_id": f"r{row}", "category": "a",
             "gold": f"{hostile}gold {row}",
             "prompt": [{"role": "user", "content": f"{hostile}What is number {row} in {part}?"}],
             "answer": f"{hostile}{who} says " + "word " * (words + row % 3), "token_f1": 0.25,
             "finish_reason": "length" if row % 4 == 0 else "stop", "error": None}
            for part in ("domain", "paraphrases") for row in range(rows)]
    return said + [{"suite": "general", "model": who, "key": str(key), "prompt": f"{hostile}Say {key}.",
                    "answer": f"{hostile}I'm sorry, but I can't help." if key == 3 and who != "base"
                    else f"{who} says " + "more " * words, "finish_reason": "stop", "error": None,
                    "strict": [True], "instructions": ["x"]} for key in range(12)]


def curve(options: dict, dice) -> list[dict]:
    """EMA holds CE / (λ KL) near 1; a fixed λ lets it drift."""
    steps = []
    for step in range(1, TRAINED + 1):
        sft, kl = 2 * math.exp(-step / 20) + 1, 0.4 * math.exp(-step / 10) + 0.05
        weight = {"ema": sft / kl * math.exp(dice.normal(0, 0.1)), "gradient": 2.0,
                  "fixed": options["fixed_lambda"]}[options["balance"]]
        on = options["distillation"]
        steps.append({"step": step, "loss": sft, "sft_loss": sft, "kl_loss": kl if on else None,
                      "lambda": weight if on else None,
                      "ce_kl_ratio": sft / (weight * kl) if on else None,
                      "teacher_mass": 0.7 if on else None, "grad_norm": 10 + step / 3, "tokens": 100})
    return steps
