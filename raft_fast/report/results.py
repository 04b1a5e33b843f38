"""evaluation.json as rows: the only source of the terminal's table, the page's and the model card's."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from raft_fast.report import stage1
from raft_fast.report.files import RunFiles
from raft_fast.report.text import markdown, percent, short, value
from raft_fast.run.terminal import visible

PARTS = {
    "domain": "Domain: held-out questions",
    "paraphrases": "Domain: trained questions reworded",
    "general": "General: IFBench",
    "lm_eval": "Other suites, by lm-eval",
    "drift": "Drift from the base",
    "behaviour": "Length and refusals of the answers",
}
LABELS = {
    "jury": "Correct by the jury",
    "token_f1": "Token F1",
    "similarity": "Similarity to the gold answer",
    "number_f1": "Agreement of numbers (F1)",
    "nll": "Gold answer, nats per token",
    "strict_prompt": "Prompts followed, strict",
    "strict_instruction": "Instructions followed, strict",
    "loose_prompt": "Prompts followed, loose",
    "loose_instruction": "Instructions followed, loose",
    "words": "words per answer",
    "cut_off": "answers cut off",
    "refused": "answers that refuse",
}
DRIFT = {"own": "the base's own answers", "text": "general text"}
HEADLINE = (("domain", "token_f1"), ("domain", "nll"), ("general", "strict_instruction"))
TOO_FEW, ENOUGH = "too few rows", 10
SURE = 0.05  # a p below it is beyond noise
WIDTH_OF_FILES = 140  # a log file has no width of its own
COLUMNS = ("", "base", "trained", "difference", "95 % interval", "n", "")
Section = dict[str, Any]


class Row(NamedTuple):
    """One metric as text, in the order of `COLUMNS`, after the part of the evaluation it belongs to; ↓ in
    the label: lower is better.

    The interval is that of the difference, or of the trained model's value without a difference;
    `n` counts what the difference rests on.
    """

    part: str
    label: str
    base: str
    trained: str
    difference: str
    interval: str
    n: str
    judgement: str


def rows(evaluation: Section) -> list[Row]:
    """Every metric that some row has."""
    return [Row(PARTS[part], *_cells(label, metric)) for part in PARTS if evaluation.get(part)
            for label, metric in _metrics(part, evaluation[part])
            if any(metric.get(side, {}).get("n", 1) for side in ("base", "trained"))]


def judgement(metric: Section) -> str:
    """better or worse if the change is beyond noise; no verdict on a handful of rows, for which a bootstrap
    means little."""
    change = metric["change"]
    if change["n"] == 0:
        return ""
    if change["n"] < ENOUGH:
        return TOO_FEW
    if change["low"] is None and change["mean"] == 0:
        return "same"
    if not beyond_noise(change, metric.get("p")):
        return "within noise"
    return "better" if (change["mean"] > 0) == metric["higher_is_better"] else "worse"


def beyond_noise(change: Section, p: float | None) -> bool:
    """Whether the interval of the change excludes zero. Rows that all change alike give a bootstrap no
    interval; the permutation test decides then."""
    if change["low"] is None:
        return bool(change["mean"]) and p is not None and p < SURE
    return not change["low"] <= 0 <= change["high"]


def verdict(evaluation: Section, collapse: Section) -> str:
    """One line: the headline metrics of both models and whether they differ beyond noise."""
    early = f"Training ended early: {collapse['reason']}. " if collapse else ""
    if not evaluation:
        return f"{early}This run has not been evaluated."
    found = [f"{label} {value(metric['base']['mean'])} → {value(metric['trained']['mean'])} "
             f"({judgement(metric) or 'not compared'})"
             for part, name in HEADLINE if evaluation.get(part)
             for label, metric in [(LABELS[name], evaluation[part]["metrics"][name])]
             if metric["base"]["n"] and metric["trained"]["n"]]
    general = evaluation["general"]
    kept = general["metrics"]["strict_instruction"]["retention"] if general else None
    if kept is not None:
        found.append(f"{percent(kept)} of the base kept")
    return f"{early}{'; '.join(found) or 'Nothing could be compared'}."


def notes(evaluation: Section) -> list[str]:
    """What qualifies the scores: parts left out, answers cut off or failed, the jury."""
    if not evaluation:
        return ["No evaluation.json: neither model was evaluated."]
    general, found = evaluation["general"], []
    if general is None:
        found.append(f"General behaviour was left out: {evaluation['general_skipped']}.")
    else:
        out, total = general["left_out"], general["prompts_total"]
        reasons = "; ".join(f"{name} ({why})" for name, why in out["instructions"].items())
        if out["prompts"]:
            found.append(f"IFBench prompts that cannot be verified here: {out['prompts']} of {total} "
                         f"({reasons}).")
        if out["not_in_slice"]:
            found.append(f"IFBench prompts not asked: {out['not_in_slice']} (--general_prompts 0 asks all).")
    domain = evaluation["domain"]
    if domain.get("without_answers"):
        found.append("The held-out rows have no answers: there are no domain scores.")
    for part in ("domain", "general"):
        for key, what in (("truncated", "cut off at the length limit"), ("failed", "without an answer")):
            base, trained = ((evaluation[part] or {}).get(key) or {"base": 0, "trained": 0}).values()
            if base or trained:
                found.append(f"Replies to {part} prompts {what}: base {base}, trained {trained}.")
    if jury := evaluation.get("jury"):
        agreement = jury["agreement"]
        missing = ", ".join(f"{judge} {count}" for judge, count in jury["missing_votes"].items())
        found.append(f"Jury: {', '.join(jury['judges'])}. Unanimous: {percent(agreement['unanimous'])}; "
                     f"Krippendorff's alpha: {value(agreement['krippendorff_alpha'])}; missing votes: "
                     f"{missing or 0}.")
    return found


def caveats(run: RunFiles) -> list[str]:
    """What qualifies a run's results, for page and card."""
    found = [] if run.config.get("data_source") == "gold" else stage1.notes(run.summary)
    if not run.steps:
        found.append("No metrics.jsonl: no training step is reported.")
    for key, what in (("lambda_bounded", "with λ at its bound"),
                      ("skipped", "skipped, their gradient was not finite")):
        if count := sum(bool(step.get(key)) for step in run.steps):
            found.append(f"Steps {what}: {count} of {len(run.steps)}.")
    if run.config.get("load_best_model_at_end"):
        found.append("The weights were chosen on the held-out rows (--load_best_model_at_end): scores on "
                     "these are a little too good.")
    return [*found, *notes(run.evaluation), *(f"{name} could not be read." for name in run.unreadable)]


def amount(steps: Sequence[Section]) -> list[tuple[str, ...]]:
    """How much a run trained: (what, how much)."""
    found = {"rows seen": steps[-1].get("rows_seen"), "optimizer steps": len(steps),
             "tokens, prompts included": sum(step.get("tokens") or 0 for step in steps),
             "tokens sampled by the student": sum(step.get("trajectory_tokens") or 0 for step in steps)}
    return [(what, f"{count:,}") for what, count in found.items() if count]


def print_table(evaluation: Section) -> None:
    """Print the rows to stdout, and what qualifies them."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_OF_FILES)
    table = Table(title="Base against trained (↓: lower is better)", title_justify="left")
    for place, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if 0 < place < len(COLUMNS) - 1 else "left")
    part = ""
    for row in rows(evaluation):
        if row.part != part:
            part = row.part
            table.add_section()
            table.add_row(part)
        table.add_row(*map(visible, (f"  {row.label}", *row[2:])))
    console.print(table, markup=False)
    for note in notes(evaluation):
        console.print(visible(note), markup=False)


def markdown_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; everything in it is escaped."""
    written = ["| " + " | ".join(map(markdown, line)) + " |" for line in (columns, *lines)]
    return "\n".join([written[0], "|" + "---|" * len(columns), *written[1:]]) + "\n"


def _metrics(part: str, found: Section) -> Iterator[tuple[str, Section]]:
    """(label, metric) of one part of evaluation.json. Metrics that are neither good nor bad, or that the two
    models do not both have, have no `higher_is_better` or no `change`."""
    if part == "lm_eval":
        for task, metrics in found["tasks"].items():
            yield from ((f"{task}, {name.removesuffix(',none')}", metric) for name, metric in metrics.items())
    elif part == "behaviour":
        for suite, metrics in found.items():
            yield from ((f"{suite}: {LABELS[name]}", metric) for name, metric in metrics.items())
    elif part == "drift":
        for suite, what in DRIFT.items():
            yield f"KL on {what}, nats per token", {"trained": found[suite]["kl"], "higher_is_better": False}
            yield f"NLL of {what}, nats per token", found[suite]["nll"] | {"higher_is_better": False}
        if moved := found.get("weights"):
            yield "Relative distance of the weights", {"trained": {"mean": moved["all"]},
                                                       "higher_is_better": False}
    else:
        yield from ((LABELS[name], metric) for name, metric in found["metrics"].items())


def _cells(label: str, metric: Section) -> tuple[str, ...]:
    base, trained, change = (metric.get(side) for side in ("base", "trained", "change"))
    judged, better = change or trained or {}, metric.get("higher_is_better")
    low, high = judged.get("low"), judged.get("high")
    write = value if change else short
    return (label + (" ↓" if better is False else ""),
            write(base["mean"]) if base else "", write(trained["mean"]) if trained else "",
            value(change["mean"], signed=True) if change else "",
            "" if low is None else f"[{value(low, bool(change))}, {value(high, bool(change))}]",
            str(judged.get("n", "")), judgement(metric) if change and better is not None else "")
