"""index.html: what a user would show a colleague, from results.json and the raw answers."""

import json
from pathlib import Path
from typing import Any

from benchmarks.quality import drawings
from benchmarks.quality.measures import MEASURES
from benchmarks.quality.table import SHOWN
from raft_fast.evaluation.names import ENOUGH
from raft_fast.report.page import render, write_text
from raft_fast.report.text import percent, value

TEMPLATE = "page.html.jinja"
DRAWN = 2  # planes; the tables have all
SAMPLES = {"domain": 4, "general": 2}
Result = dict[str, Any]


def write_page(found: Result, folder: Path) -> Path:
    """The page; everything that comes from data is escaped."""
    methods = list(found["best"])
    shown = [name for name in SHOWN if name in found["base"]["means"]]
    curves = best_curves(found)
    page = render(
        "benchmarks.quality", TEMPLATE, found=found, verdict=verdict(found), tiles=[],
        notes=notes(found), config={"command": found["command"], **found["machine"]},
        planes=[drawings.plane(plane, methods) for plane in found["planes"][:DRAWN]],
        kept=drawings.kept(found["best"]),
        curves=[plot for plot in (
            drawings.by_step(curves, "lambda", "λ, the weight of the KL loss", "lambda", True),
            drawings.by_step(curves, "ce_kl_ratio", "CE / (λ KL): near 1 is balance", "ratio", True),
            drawings.by_step(curves, "sft_loss", "Cross-entropy on the training answers", "sft", False),
            drawings.by_step(curves, "kl_loss", "KL to the teacher", "kl", True)) if plot],
        columns=[MEASURES[name] for name in shown],
        table=[("base", "", [value(found["base"]["means"][name]) for name in shown], "")] + [
            (method, f"{one['learning_rate']:g} · step {one['step']} · {one['seeds']} seeds",
             [value(one["means"][name]) for name in shown], percent(one["retention"]))
            for method, one in found["best"].items()],
        comparisons=comparisons(found), samples=samples(found, folder))
    return write_text(page, folder / "index.html")


def verdict(found: Result) -> list[str]:
    """What the first plane says of every method, in words; no more than its intervals allow."""
    if not found["planes"]:
        return ["Nothing was measured in both directions, so nothing can be compared."]
    if found["rows"]["heldout"] < ENOUGH:
        return [f"{found['rows']['heldout']} held-out rows are too few to tell methods apart."]
    said = []
    for one in found["planes"][0]["comparisons"]:
        stat = one["mean_score"]
        if stat["mean"] is None:
            said.append(f"{one['method']} and {found['baseline']} do not reach a common range.")
        elif stat["low"] is None or stat["low"] <= 0 <= stat["high"]:
            said.append(f"{one['method']} cannot be told from {found['baseline']} at equal general loss.")
        else:
            word = "more" if stat["mean"] > 0 else "less"
            said.append(f"At equal general loss {one['method']} learns {word} than {found['baseline']}.")
    return said or [f"Only {found['baseline']} has been measured so far."]


def notes(found: Result) -> list[str]:
    """What a reader must know before trusting the numbers."""
    seeds = max((plane["seeds"] for plane in found["planes"]), default=0)
    notes = [f"{found['rows']['train']} training rows, {found['rows']['heldout']} held out, {seeds} "
             f"{'seed' if seeds == 1 else 'seeds'}.",
             "A method's best point is chosen on the rows it is shown on; frontiers are fairer.",
             "The gold answer's likelihood favours methods trained on gold wording; token F1 and reworded "
             "questions are less partial."]
    if seeds == 1:
        notes.append("With one seed the intervals know of the rows only, not of the luck of a run.")
    if found["unfinished"]:
        notes.append(f"{found['unfinished']} cells of the suite are not finished.")
    return notes


def best_curves(found: Result) -> list[Result]:
    """Each method's first run at its best learning rate, in the order of the other plots."""
    return [next(curve for curve in found["curves"] if curve["method"] == method
                 and curve["learning_rate"] == one["learning_rate"])
            for method, one in found["best"].items()]


def comparisons(found: Result) -> list[Result]:
    """Rows of the frontier table."""
    return [{"method": one["method"], "score": MEASURES[plane["score"]].label,
             "loss": MEASURES[plane["loss"]].label, "mean": _stat(one["mean_score"]),
             "at": [_stat(stat) for stat in one["score_at"]],
             "cost": [_stat(stat) for stat in one["loss_at"]]}
            for plane in found["planes"] for one in plane["comparisons"]]


def samples(found: Result, folder: Path) -> dict[str, list[Result]]:
    """The same questions to base and every method at its best point, spread evenly, not picked."""
    answers = {"base": _generations(folder / "base.generations.jsonl")}
    for method, one in found["best"].items():
        cell = next(cell for cell in found["cells"] if cell["method"] == method
                    and cell["options"]["learning_rate"] == one["learning_rate"])
        answers[method] = _generations(
            folder / "cells" / cell["folder"] / f"point-{one['step']:06d}.generations.jsonl")
    chosen = {}
    for suite, count in SAMPLES.items():
        asked = [key for key in answers["base"] if key[0] == suite]
        count = min(count, len(asked))
        keys = [asked[(2 * place + 1) * len(asked) // (2 * count)] for place in range(count)]
        chosen[suite] = [{"question": _question(answers["base"][key]),
                          "gold": answers["base"][key].get("gold"), "answers": [
                              (method, of[key]["answer"]) for method, of in answers.items() if key in of]}
                         for key in keys]
    return chosen


def _generations(path: Path) -> dict[tuple[str, str], Result]:
    if not path.is_file():
        return {}
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(one["suite"], str(one.get("row_id", one.get("key")))): one for one in records}


def _question(record: Result) -> str:
    prompt = record["prompt"]
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _stat(stat: Result) -> Result:
    """A change as text, and whether its interval leaves zero out."""
    if stat["mean"] is None:
        return {"mean": value(None), "interval": "", "sure": False}
    known = stat["low"] is not None
    return {"mean": value(stat["mean"], signed=True),
            "interval": f"[{value(stat['low'], True)}, {value(stat['high'], True)}]" if known else "",
            "sure": known and not stat["low"] <= 0 <= stat["high"]}


