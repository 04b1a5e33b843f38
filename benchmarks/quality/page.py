"""index.html: what a user would show a colleague, from results.json and the raw answers."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from benchmarks.quality import drawings
from benchmarks.quality.deciding import NO, UNDECIDED, YES, Finding, cells_done, change
from benchmarks.quality.disk import BASE_ANSWERS, read_lines
from benchmarks.quality.findings import findings, overlapping, verdict
from benchmarks.quality.groups import groups, place
from benchmarks.quality.kept import kept
from benchmarks.quality.measures import DISTANCE, MEASURES, PLANES, RATIO
from raft_fast.report.page import render, write_text
from raft_fast.report.stage1.screened import screened
from raft_fast.report.text import counted, percent, short, value

TEMPLATE = "page.html.jinja"
DRAWN = 2  # planes, and that of the weights; the tables have all
SAMPLES = {"domain": 4, "paraphrases": 2, "general": 2}
PARTS = {"domain": "held-out question", "paraphrases": "trained question in other words",
         "general": "general prompt"}
Result = dict[str, Any]


def write_page(found: Result, folder: Path) -> Path:
    """The page; everything that comes from data is escaped."""
    said, best = findings(found), found["best"]
    page = render(
        "benchmarks.quality", TEMPLATE, found=found, verdict=verdict(found), tiles=tiles(said),
        notes=notes(found) + screening(folder), config={"command": found["command"], **found["machine"]},
        planes=planes(found), findings=said, rule=MEASURES[PLANES[0][0]].label,
        where=[(method, drawings.colour(number), place(one))
               for number, (method, one) in enumerate(best.items())],
        bars=[plot for plot in (drawings.kept(best, kept(found, folder)), drawings.drifted(best),
                                drawings.moved(best)) if plot],
        groups=groups(found), curves=curves(found), comparisons=comparisons(found),
        without=overlapping(found)[1], samples=samples(found, folder), parts=PARTS)
    return write_text(page, folder / "index.html")


def planes(found: Result) -> list[Markup]:
    """The first planes there are, and the weights' distance against the domain."""
    drawn = [one for one in found["planes"] if one["loss"] != DISTANCE][:DRAWN]
    drawn += [one for one in found["planes"] if one["loss"] == DISTANCE]
    return [drawings.plane(one, found["best"], found["base"]["means"]) for one in drawn]


def tiles(said: Sequence[Finding]) -> list[Result]:
    """Each question by how many say what, in the order of the findings; a vote is no proof."""
    found = []
    for one in said:
        said_so = Counter(line.answer for line in one.lines)
        if one.lines and one.counted:
            found.append({"label": one.name, "value": f"{said_so[YES]}\u00a0{YES}, {said_so[NO]}\u00a0{NO}",
                          "note": f"{said_so[UNDECIDED]} {UNDECIDED}; {one.counted}"})
    return found


def notes(found: Result) -> list[str]:
    """What a reader must know before trusting the numbers."""
    seeds = max((plane["seeds"] for plane in found["planes"]), default=0)
    notes = [f"{counted(found['rows']['train'], 'training row')}, {found['rows']['heldout']} held out, "
             f"{counted(seeds, 'seed')}; {cells_done(found)}.",
             "A method's best point is chosen on the rows it is shown on; frontiers are fairer.",
             "The gold answer's likelihood favours methods trained on gold wording; token F1 and reworded "
             "questions are less partial.",
             "Intervals are not corrected for how many comparisons there are: of twenty, one is beyond noise "
             "by chance."]
    if jury := found.get("jury"):
        notes.append(f"Jury: {', '.join(jury['judges'])}. All agree on {percent(jury['unanimous'])} of "
                     f"the {jury['answers']} answers with two votes or more; Krippendorff's alpha "
                     f"{value(jury['krippendorff_alpha'])}.")
    fewest = min((one["seeds"] for plane in found["planes"] for one in plane["methods"].values()), default=0)
    if fewest == 1:
        notes.append("Where there is one seed the intervals know of the rows only, not of the luck of a run.")
    if 1 < seeds < 10:
        notes.append(f"{seeds} seeds are few: intervals know too little of the luck of a run.")
    if fewest < seeds:
        notes.append("Not all learning rates have been run with all seeds; beside a comparison stands the "
                     "smallest number of seeds that a learning rate in it has.")
    return notes


def screening(folder: Path) -> list[str]:
    """What is the matter with the rows themselves; nothing where they were not screened."""
    found = screened(folder)
    if not found:
        return []
    lines = "; ".join(f"{what}: {count} {action}" for what, count, action in found["lines"])
    return [f"Screening of {counted(found['rows'], 'training row')} (screen.json): {lines}."]


def curves(found: Result) -> list[Markup]:
    """Each method's first run at its best learning rate, in the order and colours of the other plots."""
    runs = [next(curve for curve in found["curves"] if curve["method"] == method
                 and curve["learning_rate"] == one["learning_rate"])
            for method, one in found["best"].items()]
    return [plot for plot in (
        drawings.by_step(runs, "lambda", "λ, the weight of the KL loss", "lambda", logarithmic=True),
        drawings.by_step(runs, "ce_kl_ratio", f"{RATIO}: near 1 is balance", "ratio", logarithmic=True,
                         even=True),
        drawings.by_step(runs, "sft_loss", "Cross-entropy on the training answers", "sft"),
        drawings.by_step(runs, "kl_loss", "KL to the teacher", "kl", logarithmic=True)) if plot]


def comparisons(found: Result) -> list[Result]:
    """Rows of the frontier table; a comparison without a figure has none."""
    return [{"method": one["method"], "rival": one["rival"], "score": MEASURES[plane["score"]].label,
             "loss": MEASURES[plane["loss"]].label, "mean": _stat(one["mean_score"]),
             "at": [_stat(stat) for stat in one["score_at"]],
             "cost": [_stat(stat) for stat in one["loss_at"]]}
            for plane in overlapping(found)[0] for one in plane["comparisons"]]


def samples(found: Result, folder: Path) -> dict[str, list[Result]]:
    """The same questions to base and every method at its best point, spread evenly, not picked."""
    answers = {"base": _generations(folder / BASE_ANSWERS)}
    for method, one in found["best"].items():
        cell = next(cell for cell in found["cells"] if cell["method"] == method
                    and cell["options"]["learning_rate"] == one["learning_rate"])
        answers[method] = _generations(
            folder / "cells" / cell["folder"] / f"point-{one['step']:06d}.generations.jsonl")
    chosen = {}
    for suite, count in SAMPLES.items():
        asked = [key for key in answers["base"] if key[0] == suite]
        count = min(count, len(asked))
        keys = [asked[(2 * number + 1) * len(asked) // (2 * count)] for number in range(count)]
        chosen[suite] = [{"question": _question(answers["base"][key]),
                          "gold": answers["base"][key].get("gold"), "answers": [
                              (method, of[key]) for method, of in answers.items() if key in of]}
                         for key in keys]
    return chosen


def _generations(path: Path) -> dict[tuple[str, str], Result]:
    return {(one["suite"], str(one.get("row_id", one.get("key")))): one for one in read_lines(path)}


def _question(record: Result) -> str:
    prompt = record["prompt"]
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _stat(stat: Result) -> Result:
    """A change as text, its interval apart."""
    mean, _, interval = change(stat).partition(" ")
    return {"mean": mean if stat["mean"] is not None else short(None), "interval": interval}
