"""RESULTS.md: findings and tables for README and docs, from results.json and the raw answers."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.quality.deciding import Finding, cells_done, change
from benchmarks.quality.findings import findings, overlapping
from benchmarks.quality.groups import Group, groups, place
from benchmarks.quality.kept import FEW, Kept, kept
from benchmarks.quality.measures import MEASURES, PLANES, RATIO
from raft_fast.report.page import write_text
from raft_fast.report.text import counted, markdown, percent, short, value

SHOWN = ("domain.jury", "domain.nll", "domain.token_f1", "paraphrases.token_f1", "own.kl",
         "general.strict_instruction")
PAIRED = ("domain.jury", "domain.nll", "domain.token_f1", "paraphrases.nll", "paraphrases.token_f1", "own.kl",
          "text.nll", "general.strict_instruction")
Result = dict[str, Any]


def write_table(found: Result, path: Path) -> Path:
    return write_text("\n\n".join([
        heading(found), "## Findings", findings_text(findings(found)),
        "## Each method at its best", best_table(found, kept(found, path.parent)),
        "## Frontiers", frontier_table(found),
        "## At equal learning rate and steps", pairs_table(found),
        "## In detail", details(groups(found))]) + "\n", path)


def heading(found: Result) -> str:
    rows = found["rows"]
    return (f"`{found['command']}`: {markdown(found['model'])}, {rows['train']} training rows, "
            f"{rows['heldout']} held out; {cells_done(found)}.")


def findings_text(said: Sequence[Finding]) -> str:
    """Questions with an answer for every method, and the figures it rests on."""
    lines = ["Answered by rule from results.json: *yes* and *no* need a 95 % interval that leaves zero out, "
             "*undecided* is everything else. Intervals are not corrected for how many there are."]
    for one in said:
        lines += ["", f"**{markdown(one.question)}**", "", *(
            [f"- {markdown(method)}: **{answer}**. {markdown(evidence)}."
             for method, answer, evidence in one.lines] or ["- not measured"])]
    return "\n".join(lines)


def best_table(found: Result, followed: dict[str, Kept]) -> str:
    """The README's table: every method where its held-out gold answers are likeliest, beside the base."""
    shown = [name for name in SHOWN if found["base"]["means"].get(name) is not None]
    labels = [f"{MEASURES[name].label} {MEASURES[name].arrow}".rstrip() for name in shown]
    lines = table(["method", "where", *labels, "kept of IFBench", "weights moved", RATIO])
    lines.append(_row(["base", "", *(value(found["base"]["means"][name]) for name in shown), "", "", ""]))
    for method, one in found["best"].items():
        lines.append(_row([markdown(method), place(one),
                           *(value(one["means"].get(name)) for name in shown),
                           str(followed[method]) if method in followed else value(None),
                           short(one["weights"]), _ratio(found, method, one["learning_rate"])]))
    few = any(one.too_few for one in followed.values())
    told = f" Of IFBench the instructions are counted that base and method follow: a share of fewer than " \
           f"{FEW} says nothing." if few else ""
    return f"Best by {MEASURES[PLANES[0][0]].label}, averaged over seeds. {RATIO} is the median over all " \
           f"steps.{told}\n\n" + "\n".join(lines)


def frontier_table(found: Result) -> str:
    """Each method against the baseline, and methods that differ in one option: a table a plane."""
    texts = ["Changes against the base; a positive domain score is a gain, whatever the measure's sign. "
             "In brackets 95 % bootstrap intervals over rows and seeds; – where ranges do not overlap."]
    kept, without = overlapping(found)
    if without:
        texts.append(f"{counted(without, 'comparison')} left out: the ranges do not overlap at all.")
    for plane in (one for one in kept if one["comparisons"]):
        lines = table(["frontier", "against", "mean gain over the common range ↑", "at half of it ↑",
                       "cost at equal gain ↓"])
        for one in plane["comparisons"]:
            lines.append(_row([markdown(one["method"]), markdown(one["rival"]), _stat(one["mean_score"]),
                               _middle(one["score_at"]), _middle(one["loss_at"])]))
        title = f"**Gain: {MEASURES[plane['score']].label}. Cost: {MEASURES[plane['loss']].label}.**"
        texts.append("\n".join([title, "", *lines]))
    return "\n\n".join(texts)


def pairs_table(found: Result) -> str:
    """Same learning rate, same number of steps, same rows."""
    measures = [name for name in PAIRED if any(name in one["measures"] for one in found["pairs"])]
    lines = table([f"against {markdown(found['baseline'])}", "where",
                   *(f"{MEASURES[name].label} {MEASURES[name].arrow}" for name in measures)])
    for one in found["pairs"]:
        lines.append(_row([markdown(one["method"]), place(one),
                           *(_stat(one["measures"].get(name)) for name in measures)]))
    return "\n".join(lines)


def details(tables: Iterable[Group]) -> str:
    """Every value at each method's best point, its change from the base with 95 % interval beside it."""
    texts = []
    for group in tables:
        lines = table(["", *(f"{column.label} {column.arrow}".rstrip() for column in group.columns)])
        for row in group.rows:
            lines.append(_row([markdown(row.method), *(
                cell.value + (f" ({cell.change})" if cell.change else "") for cell in row.cells)]))
        texts.append("\n".join([f"**{group.title}**", "", *lines]))
    return "\n\n".join(texts)


def table(head: Sequence[str]) -> list[str]:
    """The first two lines of a Markdown table."""
    return [_row(list(head)), "|" + "---|" * len(head)]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _stat(stat: Result | None) -> str:
    if stat is None or stat["mean"] is None:
        return value(None)
    if stat["p"] is None:
        return change(stat)
    return change(stat) + (", p < 0.001" if stat["p"] < 0.001 else f", p {stat['p']:.3f}")


def _middle(stats: list[Result]) -> str:
    return _stat(stats[len(stats) // 2] if stats else None)


def _ratio(found: Result, method: str, rate: float) -> str:
    """Median CE / (λ KL) over the steps of all runs, and the share of them between 1/2 and 2; where a KL
    falls to nothing a mean would be that one step."""
    ratios = [step["ce_kl_ratio"] for one in found["curves"]
              if one["method"] == method and one["learning_rate"] == rate
              for step in one["steps"] if step["ce_kl_ratio"] is not None]
    if not ratios:
        return value(None)
    near = sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios)
    return f"{median(ratios):.2f} ({percent(near)} in [½, 2])"
