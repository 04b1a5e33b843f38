"""RUN/report.html: one self-contained page made of the run's files and nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from raft_fast.report import page, plots
from raft_fast.report.figure import bars
from raft_fast.report.run_files import RunFiles, read_run
from raft_fast.report.score_tables import score_tables
from raft_fast.report.stage1.screened import screened
from raft_fast.report.stage1.section import section
from raft_fast.report.text import duration, gigabytes, percent, value
from raft_fast.report.verdict import left_out, verdict

TEMPLATE = "run_report.html.jinja"
DOMAIN_SAMPLES, GENERAL_SAMPLES = 8, 4
Section = dict[str, Any]


def write_report(run_dir: Path) -> Path:
    """Write `run_dir`/report.html from the files beside it; returns its path.

    A missing file leaves its section out, with a line that says so.
    """
    run = read_run(run_dir)
    stage1 = section(run_dir / "refine", run.config.get("tau"))
    return page.write_text(render(run, stage1, screened(run_dir)), run_dir / "report.html")


def render(run: RunFiles, stage1: Section | None, screening: Section | None = None) -> str:
    """The page. Everything that comes from data is escaped."""
    return page.render(
        "raft_fast.report", TEMPLATE, run=run, verdict=verdict(run), notes=left_out(run),
        tiles=tiles(run), config=run.config,
        tables=score_tables(run.evaluation), jury=jury(run.evaluation), training=training_plots(run),
        distilled=any(step.get("kl_loss") is not None for step in run.steps),
        stage1=stage1, screened=screening, samples=samples(run.generations), costs=costs(run.phases))


def tiles(run: RunFiles) -> list[Section]:
    """The few numbers to read first."""
    found = []
    if run.evaluation:
        f1 = run.evaluation["domain"]["metrics"]["token_f1"]
        found.append({"label": "domain, token F1", "value": value(f1["trained"]["mean"]),
                      "note": f"base {value(f1['base']['mean'])}"})
        if general := run.evaluation["general"]:
            kept = general["metrics"]["strict_instruction"]
            found.append({"label": "general, kept", "value": percent(kept["retention"]),
                          "note": "of the base's IFBench score"})
    if run.steps:
        found.append({"label": "training steps", "value": f"{len(run.steps):,}",
                      "note": f"{sum(step.get('tokens') or 0 for step in run.steps):,} tokens"})
    if run.phases:
        found.append({"label": "time", "value": duration(_total_seconds(run.phases)),
                      "note": f"peak {gigabytes(_peak(run.phases)):.1f} GB"})
    return found


def jury(evaluation: Section) -> Section | None:
    """Who judged and how far they agree, as text; None without a jury."""
    found = evaluation.get("jury")
    if not found:
        return None
    return {"judges": ", ".join(found["judges"]), "unanimous": percent(found["agreement"]["unanimous"]),
            "alpha": value(found["agreement"]["krippendorff_alpha"]),
            "missing": ", ".join(f"{judge} {count}" for judge, count in found["missing_votes"].items())}


def training_plots(run: RunFiles) -> list[Markup]:
    """What was on of SFT loss, KL loss, λ, CE / (λ KL) and teacher mass; gradient norm."""
    if not run.steps:
        return []
    steps = [step["step"] for step in run.steps]

    def series(key: str) -> list[float | None]:
        return [step.get(key) for step in run.steps]

    drawn = []
    if any(found is not None for found in series("sft_loss")):
        drawn.append(plots.by_step("sft", "Cross-entropy on the answers (SFT)", steps,
                                   series("sft_loss")))
    if any(found is not None for found in series("kl_loss")):
        kept = run.config.get("teacher_top_k", "K")
        drawn += [
            plots.by_step("kl", "Distance to the teacher (KL)", steps, series("kl_loss")),
            plots.by_step("lambda", "λ, the weight of the KL loss", steps, series("lambda")),
            plots.ratio(steps, series("ce_kl_ratio")),
            plots.by_step("mass", f"Teacher mass in its top {kept}", steps,
                          series("teacher_mass"), top=1.02)]
    drawn.append(plots.by_step("norm", "Gradient norm before clipping", steps,
                               series("grad_norm")))
    return drawn


def samples(generations: Sequence[Section]) -> Section:
    """Both models' answers to the same questions, spread evenly: not picked by score."""
    paired: dict[tuple[str, str], Section] = {}
    for record in generations:
        suite = record["suite"]
        key = (suite, str(record["key" if suite == "general" else "row_id"]))
        entry = paired.setdefault(key, {"id": key[1], "record": record, "answers": {}})
        entry["answers"][record["model"]] = record
    counts = {"domain": DOMAIN_SAMPLES, "general": GENERAL_SAMPLES}
    return {suite: _every_nth([entry for (of, _), entry in paired.items()
                               if of == suite and len(entry["answers"]) == 2], count)
            for suite, count in counts.items()}


def _every_nth(entries: list[Section], count: int) -> list[Section]:
    count = min(count, len(entries))
    return [entries[(2 * place + 1) * len(entries) // (2 * count)] for place in range(count)]


def costs(phases: Sequence[Section]) -> Section | None:
    """Time and memory by phase; None where nothing was measured."""
    if not phases:
        return None
    names = [phase["name"] for phase in phases]
    return {
        "plots": [
            bars(names, [phase["seconds"] for phase in phases], "Time by phase", duration, "time"),
            bars(names, [gigabytes(phase["peak_bytes"]) for phase in phases],
                 "Peak memory by phase", lambda found: f"{found:.2f} GB", "memory")],
        "seconds": duration(_total_seconds(phases)),
        "peak": f"{gigabytes(_peak(phases)):.2f} GB",
    }


def _total_seconds(phases: Sequence[Section]) -> float:
    return sum(phase["seconds"] for phase in phases)


def _peak(phases: Sequence[Section]) -> float:
    return max(phase["peak_bytes"] for phase in phases)
