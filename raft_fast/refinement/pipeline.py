"""Stage 1 as one function: rows with gold answers in, rows with training answers out."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raft_fast.dataset import Row, write_json, write_jsonl, write_rows
from raft_fast.engines import Sampling
from raft_fast.options import RefineOptions
from raft_fast.progress import Reporter
from raft_fast.refinement.decisions import Decision, Tokens, decide
from raft_fast.refinement.filter import SimilarityEncoder, filter_rewrites
from raft_fast.refinement.fuse import fuse
from raft_fast.refinement.journal import Journal
from raft_fast.refinement.rewrite import rewrite
from raft_fast.refinement.roles import Part, Roles

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def refine(
    rows: Sequence[Row], options: RefineOptions, roles: Roles, encoder: SimilarityEncoder,
    output_dir: Path, reporter: Reporter, *, seed: int = 0, total_rows: int | None = None,
) -> list[Row]:
    """Eqs. 1-4 over all rows; returns them, in order, with `completion` as the training answer.

    Writes refined.parquet, decisions.jsonl and summary.json into `output_dir`, where the journal
    lives too: called again, only what is missing is asked for. `total_rows` is how many rows there
    were before a slice was taken. Raises UserError for an engine that cannot be reached or never
    gives anything usable, and where another process works in `output_dir`.
    """
    start = time.perf_counter()
    with Journal(output_dir) as journal:
        if journal.damaged:
            reporter.say(f"{journal.path}: {journal.damaged} lines cannot be read; what they held "
                         "is asked for again")
        decisions = _decide_all(rows, options, roles, encoder, journal, reporter, seed)
        refined = [decision.refined_row() for decision in decisions]
        summary = summarize(decisions, options, roles) | {
            "rows": {"used": len(rows), "total": len(rows) if total_rows is None else total_rows},
            "replies": {"asked": journal.asked, "cached": journal.cached},
            "seed": seed,
            "seconds": round(time.perf_counter() - start, 3),
        }
        write_rows(refined, output_dir / "refined.parquet")
        write_jsonl((decision.as_json() for decision in decisions), output_dir / "decisions.jsonl")
        write_json(summary, output_dir / "summary.json")
    return refined


def _decide_all(
    rows: Sequence[Row], options: RefineOptions, roles: Roles, encoder: SimilarityEncoder,
    journal: Journal, reporter: Reporter, seed: int,
) -> list[Decision]:
    sampling = Sampling(options.rewrite_max_new_tokens, options.rewrite_temperature, seed)
    rewriter = Part("--rewriter", roles.rewriter, journal)
    with reporter.phase("rewrite", len(rows), "rows") as advance:
        rewrites = rewrite(rows, rewriter, sampling, advance)
    rewriter.must_have_worked()
    with reporter.phase("filter", len(rows), "rows") as advance:
        filtered = filter_rewrites(rows, rewrites, encoder, options.tau)
        advance(len(rows))
    rounds = {}
    if options.fusion_rounds and roles.fuser is not None:
        passed = [one for one in filtered if one.passed]
        fuser = Part("--fuser", roles.fuser, journal)
        judges = [Part("--judge", engine, journal) for engine in roles.judges]
        fused = fuse(passed, fuser, judges, encoder, options, sampling, reporter)
        for part in (fuser, *judges):
            part.must_have_worked()
        rounds = {one.row.row_id: found for one, found in zip(passed, fused, strict=True)}
    return [decide(one, rounds.get(one.row.row_id, [])) for one in filtered]


def summarize(
    decisions: Sequence[Decision], options: RefineOptions, roles: Roles
) -> dict[str, Any]:
    """summary.json as far as the decisions tell it."""
    tokens: dict[str, Tokens] = {}
    for decision in decisions:
        for part, spent in decision.tokens.items():
            tokens[part] = tokens.get(part, Tokens()) + spent
    judges = [engine.identity for engine in roles.judges]
    sources = Counter(decision.source for decision in decisions)
    return {
        "sources": {source: sources[source] for source in ("gold", "rewrite", "fused")},
        "passed_filter": sum(decision.filtered.passed for decision in decisions),
        "objections": _count_objections(decisions),
        "similarity": _quantiles([one.filtered.similarity for one in decisions]),
        "tau": options.tau,
        "fused_tau": options.fused_tau or None,
        "judge_stop": options.judge_stop,
        "fusion_rounds": options.fusion_rounds,
        "failed_scores": _count_failed_scores(decisions),
        "engines": {
            "rewriter": roles.rewriter.identity,
            "fuser": roles.fuser.identity if roles.fuser else None,
            "judges": judges,
        },
        "fuser_is_judge": roles.fuser is not None and roles.fuser.identity in judges,
        "tokens": {part: vars(spent) for part, spent in tokens.items()},
    }


def _count_objections(decisions: Sequence[Decision]) -> dict[str, int]:
    """How many rewrites each check refused; one rewrite can fail several."""
    counts = Counter(name for decision in decisions
                     for name, reason in decision.filtered.checks.items() if reason is not None)
    return dict(sorted(counts.items()))


def _count_failed_scores(decisions: Sequence[Decision]) -> dict[str, int]:
    counts = Counter(verdict.judge for decision in decisions for one in decision.rounds
                     for verdict in one.verdicts if verdict.score is None)
    return dict(sorted(counts.items()))


def _quantiles(similarities: Sequence[float | None]) -> dict[str, float] | None:
    known = [value for value in similarities if value is not None]
    if not known:
        return None
    values = np.quantile(known, QUANTILES)
    return {f"p{round(100 * at):02d}": float(value)
            for at, value in zip(QUANTILES, values, strict=True)}
