"""From steps to figures: medians, quartiles, ratios to TRL, goals."""

import statistics
from typing import Any

OURS, ALONE = "raft-fast", "raft-fast, KL alone"
SDFT, DISTILLATION = "TRL SDFTTrainer", "TRL DistillationTrainer"
# what is read in a part, and in which seconds
PARTS = {"rollout": ("rollout_tokens", ("rollout_seconds",)),
         "teacher": ("teacher_tokens", ("teacher_seconds",)),
         "train": ("student_tokens", ("train_seconds",)),
         "teacher and train": ("student_tokens", ("teacher_seconds", "train_seconds")),
         "step": ("student_tokens", ("seconds",))}
GOALS = {"teacher": 2.0, "train": 2.0, "step": 1.5}
OVERHEAD_GOAL = 0.03
LEAST = 3  # steps counted: a median of fewer is no more than one of them


def other_tokens(found: dict[str, list[dict[str, Any]]]) -> dict[int, str]:
    """Steps in which contenders that should read the same tokens did not, with what each read: a trajectory
    may end elsewhere where a rounding moves one draw, and its step compares nothing."""
    groups = [("rollout_tokens", list(found)),
              ("student_tokens", [name for name in (ALONE, SDFT, DISTILLATION) if name in found]),
              ("teacher_tokens", [name for name in (OURS, ALONE, SDFT) if name in found])]
    told: dict[int, str] = {}
    for key, names in groups:
        read = {name: list(zip(*([step[key] for step in one["steps"]] for one in found[name]), strict=True))
                for name in names}  # step by step, all rounds
        for index, each in enumerate(zip(*read.values(), strict=True)):
            if len({count for counts in each for count in counts}) > 1:
                told.setdefault(index, f"{key} " + ", ".join(
                    f"{name} {sorted(set(counts))}" for name, counts in zip(read, each, strict=True)))
    return told


def summarise(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Figures of every contender, how many times TRL's tokens a second ours are, and the goals.

    Left out, of all of them: the first step, which warms up, those in which our loop compares
    log-probabilities with its rollout engine (refills 1, 2, 4, 8, ...): a check is no part of sampling; and
    those of `other_tokens`.
    """
    others = other_tokens(found)
    warm = [index for index in range(len(next(iter(found.values()))[0]["steps"])) if index and not any(
        one["steps"][index].get("compared") for rounds in found.values() for one in rounds)]
    counted = [index for index in warm if index not in others]
    if len(counted) < LEAST:
        raise SystemExit(f"--steps: {len(counted)} would be counted, too few: steps 0, 1, 2, 4, 8, ... are "
                         f"not, nor those in which contenders read other tokens: {others or 'none'}")
    contenders = {name: _figures(rounds, counted) for name, rounds in found.items()}
    mine = [name for name in (OURS, ALONE) if name in contenders]
    theirs = [name for name in (SDFT, DISTILLATION) if name in contenders]
    ratios = {f"{own} / {rival}": _ratios(contenders[own], contenders[rival])
              for own in mine for rival in theirs}
    return {"contenders": contenders, "ratios": ratios, "goals": _goals(contenders, ratios),
            "steps_counted": counted, "other_tokens": others}


def _figures(rounds: list[dict[str, Any]], counted: list[int]) -> dict[str, Any]:
    """Of the steps counted, in all rounds."""
    steps = [one["steps"][index] for one in rounds for index in counted]
    parts = {part: {"seconds": _quartiles([sum(step[key] for key in seconds) for step in steps]),
                    "tokens_per_second": _quartiles([step[tokens] / sum(step[key] for key in seconds)
                                                     for step in steps])}
             for part, (tokens, seconds) in PARTS.items()}
    outside = [1 - sum(step[f"{part}_seconds"] for part in ("rollout", "teacher", "train")) / step["seconds"]
               for step in steps]
    return {"parts": parts, "outside_share": _quartiles(outside), "steps": steps,
            "peak_bytes": max(one["peak_bytes"] for one in rounds)}


def _quartiles(values: list[float]) -> list[float]:
    """25, 50 and 75 %."""
    found = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return [round(value, 5) for value in found]


def _ratios(own: dict[str, Any], rival: dict[str, Any]) -> dict[str, float]:
    speeds = {part: own["parts"][part]["tokens_per_second"][1] / rival["parts"][part]["tokens_per_second"][1]
              for part in PARTS}
    return {part: round(ratio, 2) for part, ratio in speeds.items()} | {
        "peak memory": round(own["peak_bytes"] / rival["peak_bytes"], 3)}


def _goals(contenders: dict[str, Any], ratios: dict[str, Any]) -> list[dict[str, Any]]:
    """Against the nearest trainer, at equal work: answers that only RAFT reads must not count as speed."""
    rated = {pair: ratio for pair, ratio in ratios.items() if pair == f"{ALONE} / {SDFT}"}
    goals = [{"what": f"{pair}: {part}", "goal": f">= {goal}", "found": ratio[part],
              "met": ratio[part] >= goal}
             for pair, ratio in rated.items() for part, goal in GOALS.items()]
    goals += [{"what": f"{pair}: peak memory", "goal": "< 1", "found": ratio["peak memory"],
               "met": ratio["peak memory"] < 1} for pair, ratio in rated.items()]
    if OURS in contenders:
        outside = contenders[OURS]["outside_share"][1]
        goals.append({"what": "share of a step outside rollout, teacher and train",
                      "goal": f"< {OVERHEAD_GOAL}", "found": outside, "met": outside < OVERHEAD_GOAL})
    return goals


def show(result: dict[str, Any]) -> None:
    """Speeds, memory and goals as tables."""
    from rich.console import Console
    from rich.table import Table

    speeds = Table("tokens a second: median (25 - 75 %)", *PARTS, "peak GiB")
    for name, one in result["contenders"].items():
        cells = []
        for part in PARTS:
            low, middle, high = one["parts"][part]["tokens_per_second"]
            cells.append(f"{middle:.0f} ({low:.0f} - {high:.0f})")
        speeds.add_row(name, *cells, f"{one['peak_bytes'] / 2**30:.2f}")
    for pair, ratio in result["ratios"].items():
        speeds.add_row(pair, *(f"{ratio[part]:.2f} x" for part in PARTS), f"{ratio['peak memory']:.2f} x")
    goals = Table("goal", "asked", "found", "")
    for goal in result["goals"]:
        goals.add_row(goal["what"], goal["goal"], f"{goal['found']:.3f}", "met" if goal["met"] else "NOT met")
    console = Console(width=150)
    console.print(speeds)
    console.print(goals)
