"""RESULTS.md: the tables for README and docs, made from results.json and nothing else."""

from pathlib import Path
from typing import Any

from benchmarks.quality.measures import MEASURES, PLANES
from raft_fast.report.page import write_text
from raft_fast.report.text import markdown, percent, value

SHOWN = ("domain.nll", "domain.token_f1", "paraphrases.nll", "own.kl", "own.nll", "text.nll",
         "general.strict_instruction")
Result = dict[str, Any]


def write_table(found: Result, path: Path) -> Path:
    return write_text("\n\n".join([heading(found), best_table(found), frontier_table(found),
                                   pairs_table(found)]) + "\n", path)


def heading(found: Result) -> str:
    rows = found["rows"]
    cut = f"; {found['unfinished']} cells are not finished yet" if found["unfinished"] else ""
    return (f"`{found['command']}`: {markdown(found['model'])}, {rows['train']} training rows, "
            f"{rows['heldout']} held out{cut}.")


def best_table(found: Result) -> str:
    """Every method where its domain score is best, beside the base."""
    shown = [name for name in SHOWN if name in found["base"]["means"]]
    labels = [f"{MEASURES[name].label} {'↑' if MEASURES[name].more_is_better else '↓'}" for name in shown]
    lines = [_row(["method", "learning rate, step, seeds", *labels, "kept of IFBench", "weights moved",
                   "CE/KL"]),
             "|" + "---|" * (len(shown) + 5),
             _row(["base", "", *(value(found["base"]["means"][name]) for name in shown), "", "", ""])]
    for method, one in found["best"].items():
        lines.append(_row([markdown(method), f"{one['learning_rate']:g}, {one['step']}, {one['seeds']}",
                           *(value(one["means"][name]) for name in shown), percent(one["retention"]),
                           _small(one["weights"]), _ratio(found, method, one["learning_rate"])]))
    return "\n".join(lines)


def frontier_table(found: Result) -> str:
    """Each method against the baseline in every plane."""
    lines = [_row(["frontier against " + markdown(found["baseline"]), "domain score, general loss",
                   "mean domain score over the common range ↑", "at half of it ↑",
                   "general loss at equal domain score ↓"]), "|" + "---|" * 5]
    for plane in found["planes"]:
        for one in plane["comparisons"]:
            lines.append(_row([markdown(one["method"]),
                               f"{MEASURES[plane['score']].label}; {MEASURES[plane['loss']].label}",
                               _stat(one["mean_score"]), _middle(one["score_at"]), _middle(one["loss_at"])]))
    return "\n".join([
        "Changes against the base; a positive domain score is a gain, whatever the measure's sign. "
        "In brackets 95 % bootstrap intervals over rows and seeds; – where ranges do not overlap.", "",
        *lines])


def pairs_table(found: Result) -> str:
    """Same learning rate, same number of steps, same rows."""
    score, loss = PLANES[0]
    lines = [_row(["same learning rate and steps, against " + markdown(found["baseline"]),
                   "learning rate, step, seeds", MEASURES[score].label, MEASURES[loss].label]),
             "|" + "---|" * 4]
    for one in found["pairs"]:
        lines.append(_row([markdown(one["method"]),
                           f"{one['learning_rate']:g}, {one['step']}, {one['seeds']}",
                           *(_stat(one["measures"].get(name)) for name in (score, loss))]))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _stat(stat: Result | None) -> str:
    if stat is None or stat["mean"] is None:
        return value(None)
    text = value(stat["mean"], signed=True)
    if stat["low"] is not None:
        text += f" [{value(stat['low'], signed=True)}, {value(stat['high'], signed=True)}]"
    return text + (f", p {stat['p']:.3f}" if stat["p"] is not None else "")


def _middle(stats: list[Result]) -> str:
    return _stat(stats[len(stats) // 2] if stats else None)


def _small(number: float | None) -> str:
    return value(None) if number is None else f"{number:.2g}"


def _ratio(found: Result, method: str, rate: float) -> str:
    """Mean CE / (λ KL) over the steps, and the share of them between 1/2 and 2."""
    ratios = [one["ce_kl_ratio"] for one in found["curves"]
              if one["method"] == method and one["learning_rate"] == rate and one["ce_kl_ratio"]]
    if not ratios:
        return value(None)
    return f"{sum(one['mean'] for one in ratios) / len(ratios):.2f} " \
           f"({percent(sum(one['near_1'] for one in ratios) / len(ratios))} in [½, 2])"
