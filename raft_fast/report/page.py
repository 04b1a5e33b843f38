"""report.html, of a run and of stage 1 alone: one self-contained page from the files in the folder."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from raft_fast.refinement.candidates import REWRITE, SIMILARITY, read_line
from raft_fast.report import results, stage1
from raft_fast.report.figure import bars, curve, histogram
from raft_fast.report.files import Record, RunFiles, read, read_run, rejected, write_text
from raft_fast.report.stage1 import Stage1, read_stage1
from raft_fast.report.text import duration, gigabytes, value

CURVES = {"sft_loss": "Cross-entropy on the answers (SFT)", "kl_loss": "Distance to the teacher (KL)",
          "lambda": "λ, the weight of the KL loss", "ce_kl_ratio": "CE / (λ KL): near 1 is balance",
          "teacher_mass": "Teacher mass in its top K", "grad_norm": "Gradient norm before clipping"}
SAMPLES = {"domain": 8, "general": 4}
CLIP = 3000  # characters of one answer
BIN = 0.04  # of similarities
Block = dict[str, Any]  # a part of a section; page.html.jinja has its kinds


def write_run_report(run_dir: Path) -> Path:
    """Write `run_dir`/report.html; returns its path. A missing file is named in its section."""
    run = read_run(run_dir)
    refined = run_dir / "refine"
    gold = run.config.get("data_source") == "gold"
    sections = [
        ("Domain against general", scores(run.evaluation)),
        ("Training", training(run)),
        ("Where the training answers came from", screening(run_dir) + (
            [text("Trained on the gold answers as they are.")] if gold else
            refinement(read_stage1(refined, run.config.get("tau")), refined))),
        ("Answers side by side", samples(run.generations)),
        ("Time and memory", costs(run.phases)),
    ]
    kicker = " · ".join(["RAFT report", *([run.config["model"]] if run.config.get("model") else [])])
    return write_page(run_dir / "report.html", kicker, run.name, run.config, sections,
                      results.verdict(run.evaluation, run.collapse), results.caveats(run))


def write_refine_report(folder: Path) -> Path:
    """Write `folder`/report.html from what stage 1 wrote there; returns its path."""
    config = read(folder / "config.yaml", {})
    found = read_stage1(folder, config.get("tau"))
    verdict, notes = "Stage 1 has decided nothing here yet.", list[str]()
    if found:
        sources = ", ".join(f"{count:,} {name}" for name, count in found.tally.sources.items())
        verdict = f"{found.tally.rows:,} rows; training answers: {sources}."
        notes = stage1.notes(found.summary, rejected(folder))
    sections = [("Where the training answers come from", screening(folder) + refinement(found, folder))]
    return write_page(folder / "report.html", "RAFT, stage 1: refined data", folder.resolve().name, config,
                      sections, verdict, notes)


def write_page(path: Path, kicker: str, heading: str, config: Record,
               sections: Sequence[tuple[str, list[Block]]], verdict: str,
               notes: Sequence[str]) -> Path:
    """Write a page of titled sections; returns its path. Whatever is not Markup is escaped."""
    environment = Environment(loader=PackageLoader("raft_fast.report", ""), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return write_text(environment.get_template("page.html.jinja").render(
        kicker=kicker, heading=heading, config=config, sections=sections, verdict=verdict, notes=notes), path)


def scores(evaluation: Record) -> list[Block]:
    """Base against trained."""
    rows = results.rows(evaluation)
    if not rows:
        return [text("No evaluation.json in this folder: nothing was measured.", missing=True)]
    found = [table(results.COLUMNS, [row[1:] for row in rows if row.part == part], part)
             for part in dict.fromkeys(row.part for row in rows)]
    return [*found, text(f"Intervals: {evaluation['intervals']}. A difference is called better or worse only "
                         "if its interval excludes zero. ↓: lower is better.")]


def training(run: RunFiles) -> list[Block]:
    """A curve for every loss and what belongs to it, as far as it was on."""
    if not run.steps:
        return [text("No metrics.jsonl in this folder: no training step was taken.", missing=True)]
    steps = [step["step"] for step in run.steps]
    more = {key: key for step in run.steps for key in step if key.endswith("_loss") and key not in CURVES}
    drawn = [curve(key, title, steps, [step.get(key) for step in run.steps], log=key == "ce_kl_ratio")
             for key, title in (CURVES | more).items()]
    return [plots(drawn), table(("", ""), results.amount(run.steps))]


def refinement(found: Stage1 | None, folder: Path) -> list[Block]:
    """Stage 1: counts, candidates by origin, checks, judges, costs, examples."""
    if found is None:
        return [text(f"No {folder.name}/decisions.jsonl: stage 1 was not part of it, or is not finished.",
                     missing=True)]
    tally = found.tally
    blocks = [plots([bars("flow", "How far the rows came", *stage1.flow(found)), *_similarities(found)]),
              table(("", ""), stage1.counts(found.summary), "What came of the rows"),
              table(*stage1.draws(tally), "Candidates by origin"),
              table(*stage1.objections(tally), "Candidates refused, by check"),
              table(("judge", "scores", "mean", "from the others", "failed", "first error"),
                    stage1.judges(tally), "Judges"),
              table(("", "true pairs that pass", "shuffled pairs that pass"),
                    stage1.calibration(found.summary),
                    "Calibration of τ: a gold answer with its own rewrite, or with another row's"),
              table(("", "replies", "tokens read", "written", "cost (--price)"), stage1.costs(found), "Cost")]
    if said := stage1.started(folder):
        blocks.append(text(f"{said}."))
    for title, examples in (("Rows with a new answer", found.accepted),
                            ("Rows that keep the gold answer", found.rejected)):
        if shown := [_example(record) for record in examples.chosen()]:
            blocks += [text(f"{title}: one example for every reason before a second for any."), *shown]
    if found.damaged:
        blocks.append(text(f"{found.damaged} lines of decisions.jsonl could not be read.", missing=True))
    return blocks


def screening(folder: Path) -> list[Block]:
    """Near-duplicates and overlap; nothing if the rows were not screened."""
    counts, first = stage1.screened(folder)
    return [table(("", "rows", ""), counts, "Duplicates and overlap"),
            table(("row", "repeats", "by", "value", ""), first, "The first findings; all are in screen.json")]


def samples(generations: Sequence[Record]) -> list[Block]:
    """Both models' answers to the same questions, spread evenly over the rows, not picked by score."""
    paired: dict[tuple[str, str], dict[str, Record]] = {}
    for record in generations:
        key = record["suite"], str(record["key" if record["suite"] == "general" else "row_id"])
        paired.setdefault(key, {})[record["model"]] = record
    blocks = []
    for suite, count in SAMPLES.items():
        entries = [found for (of, _), found in paired.items() if of == suite and len(found) == 2]
        count = min(count, len(entries))
        for place in range(count):
            blocks.append(_sample(entries[(2 * place + 1) * len(entries) // (2 * count)]))
    if not blocks:
        return [text("No generations.jsonl in this folder: there are no answers to show.", missing=True)]
    return [text("Spread evenly, not picked by score; all answers are in generations.jsonl."), *blocks]


def costs(phases: Sequence[Record]) -> list[Block]:
    """Time and memory by phase."""
    if not phases:
        return [text("No phases.json in this folder: time and memory were not measured.", missing=True)]
    lines = [(one["name"], duration(one["seconds"]), gigabytes(one["peak_bytes"])) for one in phases]
    total = ("all", duration(sum(one["seconds"] for one in phases)),
             gigabytes(max(one["peak_bytes"] for one in phases)))
    return [table(("phase", "time", "peak memory"), [*lines, total])]


def table(columns: Sequence[str], lines: Sequence[Sequence[str]], title: str = "") -> Block:
    """A table; nothing is shown without lines."""
    return {"kind": "table", "title": title, "columns": columns, "lines": lines}


def plots(drawn: Sequence[Markup | None]) -> Block:
    return {"kind": "plots", "plots": [one for one in drawn if one is not None]}


def text(said: str, missing: bool = False) -> Block:
    return {"kind": "missing" if missing else "text", "text": said}


def _similarities(found: Stage1) -> list[Markup]:
    """Rewrites by similarity to the gold answer; τ is an edge, so that no bar has both sides of it."""
    tau = found.summary.get("tau")
    rewrites = found.tally.origins.get(REWRITE)
    scores = rewrites and rewrites.scores.get(SIMILARITY)
    if not scores or not len(scores.all):
        return []
    first, last = -math.floor((1 + (tau or 0)) / BIN), math.ceil((1 - (tau or 0)) / BIN)
    edges = [(tau or 0) + BIN * place for place in range(first, last + 1)]
    passed, refused = (one.histogram(edges) for one in (scores.passed, scores.refused))
    below = -first if tau is not None else 0  # bins below τ
    kinds = {"passed": passed, "refused by another check": [0] * below + refused[below:],
             "below τ": refused[:below] + [0] * len(refused[below:])}
    title = "Rewrites by similarity to the gold answer"
    return [histogram("similarity", title, edges, kinds, "cosine similarity", tau)]


def _example(record: Record) -> Block:
    candidates, picks = read_line(record)
    shown = {one.origin: one for one in reversed(candidates)} | {one.origin: one for one in picks}
    answers = []
    order = [*candidates, *picks]
    for one in sorted(shown.values(), key=order.index):
        said = [f"{name} {value(score)}" for name, score in one.scores.items() if score is not None]
        said += [name.replace("_", " ") for name, reason in one.objections.items() if reason]
        answers.append({"name": stage1.label(one) + (", chosen" if one in picks else ""),
                        "note": " · ".join(said), "text": _clip(one.text)})
    question = record["prompt"][-1]["content"] if record.get("prompt") else record["row_id"]
    return {"kind": "sample", "question": _clip(question), "answers": answers,
            "note": record.get("why") or ""}


def _sample(found: dict[str, Record]) -> Block:
    asked = found["base"]["prompt"]
    answers = [] if isinstance(asked, str) else [{"name": "gold", "note": "", "text": found["base"]["gold"]}]
    for name in ("base", "trained"):
        one = found[name]
        said = [f"{key} {value(one[key])}" for key in ("token_f1", "similarity") if one.get(key) is not None]
        if one.get("strict"):
            said += [f"{name} {'✓' if follows else '✗'}"
                     for name, follows in zip(one["instructions"], one["strict"], strict=True)]
        said += ["cut off"] if one["finish_reason"] == "length" else []
        answers.append({"name": name, "note": " · ".join(said), "text": one["answer"]})
    question = asked if isinstance(asked, str) else asked[-1]["content"]
    return {"kind": "sample", "question": question, "note": "", "answers": answers}


def _clip(said: str) -> str:
    return said if len(said) <= CLIP else said[:CLIP] + " …"
