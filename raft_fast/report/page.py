"""report.html, of a run and of stage 1 alone: one self-contained page from the files in the folder."""

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raft_fast.report import results, stage1
from raft_fast.report.results import Lines, Record, RunFiles, duration, read, read_run
from raft_fast.report.stage1 import read_stage1

CURVES = {"sft_loss": "Cross-entropy on the answers (SFT)", "kl_loss": "Distance to the teacher (KL)",
          "lambda": "λ, the weight of the KL loss", "ce_kl_ratio": "CE / (λ KL): near 1 is balance",
          "teacher_mass": "Teacher mass in its top K", "grad_norm": "Gradient norm before clipping"}
LOG = "ce_kl_ratio"  # drawn on a log scale
SAMPLES = {"domain": 8, "general": 4}
MUTED, C1 = "#808080", "#3b7dd8"  # readable on light and dark pages
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "raft-fast", "font.size": 10, "axes.titlesize": 11,
    "axes.titlelocation": "left", "axes.axisbelow": True, "axes.grid": True, "axes.grid.axis": "y",
    "grid.alpha": 0.3, "legend.frameon": False, "lines.linewidth": 1.8,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "grid.color", "text.color",
                     "xtick.color", "ytick.color"), MUTED),
}
SIZE = (4.6, 2.7)  # inches: about the width of a phone, so that text there keeps its size
PLAIN = re.compile(r"[^\w ,:.()-]")  # matplotlib would read $ and \ as mathematics
Block = dict[str, Any]  # a part of a section of another page: page.html.jinja has its kinds


def write_run_report(run_dir: Path) -> Path:
    """Write `run_dir`/report.html; returns its path. A missing file is named in its section."""
    run, refined = read_run(run_dir), run_dir / "refine"
    kicker = " · ".join(["RAFT report", *([run.config["model"]] if run.config.get("model") else [])])
    return results.render(
        "run.html.jinja", run_dir / "report.html", kicker=kicker, heading=run.name, config=run.config,
        verdict="", notes=caveats(run), run=run, run_dir=run_dir, tables=results.tables(run.evaluation),
        columns=results.COLUMNS, curves=curves(run.steps), amount=amount(run.steps), stage1=stage1,
        found=read_stage1(refined), folder=refined, samples=samples(run.generations),
        phases=phases(run.phases))


def write_refine_report(folder: Path) -> Path:
    """Write `folder`/report.html from what stage 1 wrote there; returns its path."""
    config, found = read(folder / "config.yaml", {}), read_stage1(folder)
    verdict, notes = "Stage 1 has decided nothing here yet.", list[str]()
    if found:
        sources = ", ".join(f"{count:,} {name}" for name, count in found.tally.sources.items())
        verdict = f"{found.tally.rows:,} rows; training answers: {sources}."
        notes = stage1.notes(found.summary)
    return results.render(
        "refined.html.jinja", folder / "report.html", kicker="RAFT, stage 1: refined data",
        heading=folder.resolve().name, config=config, verdict=verdict, notes=notes, stage1=stage1,
        found=found, folder=folder)


def write_page(path: Path, kicker: str, heading: str, config: Record,
               sections: Sequence[tuple[str, list[Block]]], verdict: str, notes: Sequence[str]) -> Path:
    """Write a page of titled sections; returns its path. Whatever is not Markup is escaped."""
    return results.render("page.html.jinja", path, kicker=kicker, heading=heading, config=config,
                          sections=sections, verdict=verdict, notes=notes)


def curves(steps: Sequence[Record]) -> list[Markup]:
    """A curve for every loss and what belongs to it, as far as it was on."""
    titles = CURVES | {key: key for step in steps for key in step if key.endswith("_loss")} | CURVES
    points = {key: [(step["step"], step[key]) for step in steps if step.get(key) is not None]
              for key in titles}
    return [curve(key, titles[key], found) for key, found in points.items() if found]


def amount(steps: Sequence[Record]) -> Lines:
    """How much a run trained: (what, how much)."""
    summed = {"tokens": "tokens, prompts included", "trajectory_tokens": "tokens sampled by the student",
              "lambda_bounded": "steps with λ at its bound",
              "skipped": "steps skipped, their gradient was not finite"}
    found = {"rows seen": steps[-1].get("rows_seen") if steps else 0, "optimizer steps": len(steps)} | {
        what: sum(step.get(key) or 0 for step in steps) for key, what in summed.items()}
    return [(what, f"{count:,}") for what, count in found.items() if count]


def caveats(run: RunFiles) -> list[str]:
    """What qualifies a run's results, for page and card."""
    found = [] if run.config.get("data_source") == "gold" else stage1.notes(run.summary)
    if run.config.get("load_best_model_at_end"):
        found.append("The weights were chosen on the held-out rows (--load_best_model_at_end): scores on "
                     "these are a little too good.")
    found += results.notes(run.evaluation)
    return [*found, *(f"{name} could not be read." for name in run.unreadable)]


def samples(generations: Sequence[Record]) -> list[dict[str, Record]]:
    """Both models' answers to the same questions, spread evenly over the rows, not picked by score."""
    paired: dict[tuple[str, str], dict[str, Record]] = {}
    for record in generations:
        key = record["suite"], str(record["key" if record["suite"] == "general" else "row_id"])
        paired.setdefault(key, {})[record["model"]] = record
    found = []
    for suite, most in SAMPLES.items():
        both = [one for (of, _), one in paired.items() if of == suite and len(one) == 2]
        found += both[:: max(1, -(-len(both) // most))]
    return found


def phases(costs: Sequence[Record]) -> Lines:
    """(phase, time, peak memory), and of all."""
    total = {"name": "all", "seconds": sum(one["seconds"] for one in costs),
             "peak_bytes": max((one["peak_bytes"] for one in costs), default=0)}
    return [(one["name"], duration(one["seconds"]), f"{one['peak_bytes'] / 1e9:.2f} GB")
            for one in (*costs, total)] if costs else []


def curve(name: str, title: str, points: Sequence[tuple[float, float]]) -> Markup:
    """One quantity by optimizer step: from 0 up, or on a log scale with a line at 1."""
    def draw(axes: Any) -> None:
        axes.plot(*zip(*points, strict=True), color=C1, marker="." if len(points) == 1 else "")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        if name == LOG:
            axes.axhline(1, color=MUTED, linewidth=1, linestyle="--")
            axes.set_yscale("log")
        else:
            axes.set_ylim(0)

    return figure(name, title, draw, "step")


def figure(name: str, title: str, draw: Callable[[Any], Any], xlabel: str, height: float = SIZE[1]) -> Markup:
    """Inline SVG of what `draw(axes)` draws. `name` keeps its ids apart from other plots' ids."""
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(SIZE[0], height), layout="constrained")
        axes = canvas.add_subplot()
        draw(axes)
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        out = io.StringIO()
        canvas.savefig(out, format="svg", transparent=True,
                       metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = out.getvalue()
    svg = re.sub(r"(?<=\bid=\")|(?<=href=\"#)|(?<=url\(#)", f"{name}-", svg[svg.index("<svg") :])
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1))
