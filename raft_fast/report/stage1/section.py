"""Stage 1's section of a report: what section.html.jinja needs, from the files of its folder."""

from pathlib import Path
from typing import Any

from raft_fast.report.stage1 import plots
from raft_fast.report.stage1.costs import costs, started
from raft_fast.report.stage1.files import read_decisions, read_runs, read_summary
from raft_fast.report.stage1.tally import Tally, best_round, count, objections
from raft_fast.report.text import NONE, percent, value

Section = dict[str, Any]
SOURCES = {"fused": "fused answer", "rewrite": "the model's own rewrite", "gold": "gold answer"}
CLIP = 3000  # characters of one answer


def section(folder: Path, tau: float | None = None) -> Section | None:
    """Stage 1 as its folder tells it, None without decisions. `tau` is used where no summary has it.

    Memory does not grow with the number of rows.
    """
    summary = read_summary(folder)
    tally = count(read_decisions(folder), summary.get("tau", tau), summary.get("judge_stop"))
    if not tally.rows:
        return None
    return {
        "tally": tally,
        "summary": summary,
        "total": tally.rows,
        "sources": _sources(tally),
        "plots": _plots(tally, summary),
        "gap": gap(tally, summary),
        "calibration": _calibration(summary),
        "judges": _judges(tally),
        "costs": costs(tally, summary),
        "started": started(read_runs(folder)),
        "engines": summary.get("engines") or {},
        "accepted": [_example(record) for record in tally.accepted.chosen()],
        "rejected": [_example(record) for record in tally.rejected.chosen()],
    }


def funnel(tally: Tally, summary: Section) -> list[tuple[str, int]]:
    """(step, rows that reached it), in order."""
    rows = summary.get("rows") or {}
    before = []
    if rows:
        before = [("in the data", rows["total"] + rows.get("rejected", 0)), ("read", rows["used"])]
    steps = [*before, ("rewritten", tally.rewritten), ("passed the filter", tally.passed)]
    if tally.rounds:
        steps += [("fused", tally.fused), ("judged good", tally.good)]
    return steps


def gap(tally: Tally, summary: Section) -> Section:
    """The supervision-compatibility gap: NLL(gold) - NLL(training answer), or why there is none."""
    found = tally.likelihoods
    if not found.gold.n:
        reason = summary.get("no_likelihoods") or "the decisions hold no likelihoods"
        return {"rows": 0, "reason": reason}
    gold, training = found.gold.mean or 0.0, found.training.mean or 0.0
    return {"rows": found.gold.n, "gold": value(gold), "training": value(training),
            "gap": value(gold - training, signed=True), "reason": None}


def _sources(tally: Tally) -> list[Section]:
    return [{"name": name, "key": source, "count": tally.sources[source],
             "share": percent(tally.sources[source] / tally.rows),
             "width": f"{100 * tally.sources[source] / tally.rows:.2f}"}
            for source, name in SOURCES.items()]


def _plots(tally: Tally, summary: Section) -> Section:
    """Plots by place on the page; what there is nothing of is left out."""
    drawn: Section = {"filter": [], "fusion": [], "gap": None,
                      "funnel": plots.funnel(funnel(tally, summary), tally.rows)}
    if tally.similarities:
        drawn["filter"].append(plots.similarities(tally))
    if shuffled := summary.get("calibration"):
        drawn["filter"].append(plots.calibration(
            shuffled["edges"], shuffled["true"], shuffled["shuffled"], tally.tau,
            shuffled.get("suggested_tau")))
    if tally.rewrite_objections:
        drawn["filter"].append(plots.objections("objections", "Rewrites refused, by check",
                                                tally.rewrite_objections))
    if any(one.scores.n for one in tally.rounds.values()):
        drawn["fusion"].append(plots.rounds(tally.rounds, tally.judge_stop))
    if tally.spread.n:
        drawn["fusion"].append(plots.disagreement(tally.spread))
    if tally.fusion_objections:
        drawn["fusion"].append(plots.objections("fusions", "Fusions refused, by check",
                                                tally.fusion_objections))
    if tally.likelihoods.gold.n:
        drawn["gap"] = plots.likelihoods(tally.likelihoods)
    return drawn


def _calibration(summary: Section) -> str:
    """What the suggested τ would let pass, in a sentence; empty where nothing was calibrated."""
    found = summary.get("calibration") or {}
    if not found.get("accepted"):
        return ""
    here, there = found["accepted"]["at_tau"], found["accepted"]["at_suggested_tau"]
    suggested = "no τ keeps them out" if there is None else (
        f"the suggested {found['suggested_tau']} {_fine(there['true'])} and {_fine(there['shuffled'])}")
    return (f"Shuffled pairs are a gold answer and another row's rewrite, which τ is there to refuse. "
            f"τ = {summary.get('tau')} lets {_fine(here['true'])} of true and "
            f"{_fine(here['shuffled'])} of shuffled pairs pass, {suggested}.")


def _fine(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"


def _judges(tally: Tally) -> list[Section]:
    return [{"name": name, "scores": f"{judge.scores.n:,}", "failed": f"{judge.failed:,}",
             "mean": value(judge.scores.mean), "apart": value(judge.apart.mean, signed=True),
             "error": judge.error}
            for name, judge in tally.judges.items()]


def _example(record: Section) -> Section:
    best = best_round(record)
    return {
        "row_id": record["row_id"],
        "question": _clip(_question(record.get("prompt"))),
        "answers": [{"name": name, "kind": kind, "text": _clip(text)} for name, kind, text in (
            ("gold", "goldanswer", record.get("gold")),
            ("rewrite", "", record.get("rewrite")),
            ("fused, the training answer", "trained",
             record.get("completion") if record["source"] == "fused" else None)) if text],
        "similarity": value(record.get("similarity")),
        "score": value(best["score"]) if best else NONE,
        "refused": list(objections(record)),
        "why": record.get("why") or "",
    }


def _question(prompt: Any) -> str:
    return prompt[-1]["content"] if prompt else ""


def _clip(text: str) -> str:
    return text if len(text) <= CLIP else text[:CLIP] + " …"
