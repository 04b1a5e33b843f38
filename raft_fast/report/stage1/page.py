"""DIR/report.html of `python -m raft_fast.refine`."""

from pathlib import Path
from typing import Any

from raft_fast.report import page
from raft_fast.report.stage1.files import read_config, read_rejected
from raft_fast.report.stage1.notes import notes
from raft_fast.report.stage1.screened import screened
from raft_fast.report.stage1.section import section
from raft_fast.report.text import duration, percent

Section = dict[str, Any]


def write_report(folder: Path) -> Path:
    """Write `folder`/report.html from what stage 1 wrote there; returns its path."""
    config = read_config(folder)
    stage1 = section(folder, config.get("tau"))
    text = page.render(
        "raft_fast.report", "stage1/page.html.jinja", name=folder.resolve().name, stage1=stage1,
        screened=screened(folder), verdict=verdict(stage1), tiles=tiles(stage1), config=config,
        notes=notes(stage1["summary"], read_rejected(folder)) if stage1 else [])
    return page.write_text(text, folder / "report.html")


def verdict(stage1: Section | None) -> list[str]:
    """Sentences: how many rewrites passed, what the rows are trained on, what that changes."""
    if stage1 is None:
        return ["Stage 1 has decided nothing here yet."]
    tally, gap = stage1["tally"], stage1["gap"]
    sentences = [
        f"Of {tally.rows:,} rewrites {tally.passed:,} ({percent(tally.passed / tally.rows)}) passed "
        "the filter.",
        f"{tally.sources['fused']:,} rows are trained on a fused answer, "
        f"{tally.sources['rewrite']:,} on the model's own rewrite, {tally.sources['gold']:,} keep "
        "the gold answer."]
    if gap["rows"]:
        sentences.append(f"The training answers cost the rewriter {gap['training']} nats a token, "
                         f"the gold answers {gap['gold']}.")
    return sentences


def tiles(stage1: Section | None) -> list[Section]:
    """The few numbers to read first."""
    if stage1 is None:
        return []
    tally, summary, gap = stage1["tally"], stage1["summary"], stage1["gap"]
    changed = tally.rows - tally.sources["gold"]
    found = [
        {"label": "rows", "value": f"{tally.rows:,}", "note": _of_all(summary)},
        {"label": "new answers", "value": percent(changed / tally.rows),
         "note": f"{changed:,} rows"},
    ]
    if gap["rows"]:
        found.append({"label": "compatibility gap", "value": gap["gap"],
                      "note": "nats a token, gold minus training"})
    if tokens := summary.get("tokens"):
        spent = sum(part["prompt"] + part["completion"] for part in tokens.values())
        found.append({"label": "tokens", "value": f"{spent:,}", "note": "read and written"})
    if run := stage1["started"]:
        found.append({"label": "time", "value": duration(run["seconds"]),
                      "note": "once" if run["starts"] == 1 else f"{run['starts']} starts"})
    return found


def _of_all(summary: Section) -> str:
    rows = summary.get("rows") or {}
    return f"of {rows['total']:,}" if rows else ""
