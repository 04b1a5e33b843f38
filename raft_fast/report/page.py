"""The end of a run, or of stage 1: report.html, one self-contained page, and README.md for the Hub."""

import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raft_fast.report import results, stage1
from raft_fast.report.results import CURVES, Lines, Record, RunFiles, duration, read, read_run
from raft_fast.report.stage1 import read_stage1
from raft_fast.run.errors import UserError
from raft_fast.run.fetch import push, repository
from raft_fast.run.files import read_json
from raft_fast.run.options import AdapterOptions, Options, RefineOptions, TrainOptions
from raft_fast.run.progress import Reporter

ALWAYS = {"learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "data_source",
          "seed"}
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "n>100M")
LOG = "ce_kl_ratio"  # drawn on a log scale
SAMPLES = {"domain": 8, "general": 4}
C1, MUTED = "#3b7dd8", "#808080"  # readable on light and dark pages
SIZE = (4.6, 2.7)  # inches: about the width of a phone, so that text there keeps its size
PLAIN = re.compile(r"[^\w ,:.()-]")  # matplotlib would read $ and \ as mathematics


def finish(run_dir: Path, options: Options, reporter: Reporter) -> dict[str, float]:
    """Model card and report from what the run has written; prints the table; uploads with --push_to_hub.
    Returns the means in evaluation.json as eval_PART_METRIC, those of the base with _base behind."""
    evaluation = read_json(run_dir / "evaluation.json", "restore it, or delete it to evaluate again")
    write_model_card(run_dir)
    report = write_run_report(run_dir)
    results.print_table(evaluation)
    reporter.say(f"model  {run_dir / 'model'}\nreport {report}")
    if name := repository(options.watch, run_dir):
        with reporter.phase("upload"):
            address = push(run_dir / "model", name, options.watch.hub_private_repo)
        reporter.say(f"hub    {address}")
    means = {f"{part}_{metric}{ending}": both[model]["mean"]
             for part in ("domain", "paraphrases", "general")
             for metric, both in ((evaluation.get(part) or {}).get("metrics") or {}).items()
             for model, ending in (("trained", ""), ("base", "_base"))}
    means |= {f"drift_{probe}_kl": one["kl"]["mean"] for probe, one in (evaluation.get("drift") or {}).items()
              if "kl" in (one or {})}
    return {f"eval_{name}": mean for name, mean in means.items() if mean is not None}


def write_model_card(run_dir: Path) -> Path:
    """Write `run_dir`/model/README.md from the run's files; returns its path.

    Raises UserError if the run has no model folder."""
    folder = run_dir / "model"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; the run must have trained a model first")
    run = read_run(run_dir)
    config, base = run.config, run.config.get("model")
    # a local folder is no name that the Hub could resolve
    named = base if base and base.count("/") == 1 and not base.startswith((".", "/", "~")) else None
    plain = config.get("data_source") == "gold" and not config.get("distillation", True)
    recipe = "sft" if plain else str(config.get("recipe") or "raft").rpartition(":")[2]  # of file:Class
    return results.render(
        "model_card.md.jinja", folder / "README.md", run=run, base=base, named=named,
        tags=[recipe, *(["lora"] * bool(config.get("use_peft")))], columns=results.COLUMNS,
        scores=[*chain(*results.tables(run.evaluation).values())], data=config.get("data"),
        counts=stage1.counts(run.summary, run_dir) if "sources" in run.summary else [],
        training=[*amount(run.steps), *_options(config)], notes=caveats(run))


def write_card(folder: Path) -> Path:
    """Write the card of refined data, `folder`/README.md; returns its path. Its data is refined.parquet."""
    summary, config = read(folder / "summary.json", {}), read(folder / "config.yaml", {})
    engines, digits = summary["engines"], len(str(summary["rows"]["used"]))
    counts = [*stage1.counts(summary, folder), *((f"refused by the check {check}", f"{count:,}")
                                                 for check, count in summary["objections"].items())]
    return results.render(
        "data_card.md.jinja", folder / "README.md", name=folder.resolve().name, summary=summary,
        config=config, counts=counts, notes=stage1.notes(summary), size=SIZES[min(max(digits - 3, 0), 6)],
        engines=[("encoder", config.get("encoder")), ("rewriter", engines["rewriter"]),
                 ("fuser", engines["fuser"]), *(("judge", one) for one in engines["judges"])])


def _options(config: Record) -> Lines:
    """(option, value) of training: the `ALWAYS` shown, and those that are not at their defaults."""
    defaults = {one.name: one.default for group in (TrainOptions, AdapterOptions, RefineOptions)
                for one in dataclasses.fields(group)}
    return [(f"`{name}`", f"`{found}`") for name, found in config.items()
            if name in ALWAYS or (name in defaults and found != defaults[name])]


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
              "skipped": "steps skipped"}
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
    with style.context(Path(__file__).with_name("curves.mplstyle")):
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
