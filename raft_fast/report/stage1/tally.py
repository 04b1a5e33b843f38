"""Everything the report says about the decisions, counted in one pass and constant memory."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from raft_fast.report.stage1.examples import Examples
from raft_fast.report.stage1.histogram import Histogram

Record = dict[str, Any]
SHOWN_EXAMPLES, SHOWN_DECISIONS = 10, 300
BIN = 0.04  # of similarities
SCORE_BINS, NATS, NATS_BINS = 100, 8.0, 40
PASSED, OTHER_CHECK, BELOW = "passed", "refused by another check", "below τ"


@dataclass
class RoundTally:
    """The fusions of one round: drawn, refused by a check, and their mean scores."""

    drawn: int = 0
    refused: int = 0
    chosen: int = 0
    scores: Histogram = field(default_factory=lambda: Histogram(0, 1, SCORE_BINS))


@dataclass
class JudgeTally:
    """One judge: its scores, its failures, and how far it is from the other judges' mean."""

    scores: Histogram = field(default_factory=lambda: Histogram(0, 1, SCORE_BINS))
    failed: int = 0
    error: str | None = None
    apart: Histogram = field(default_factory=lambda: Histogram(-1, 1, 2 * SCORE_BINS))


@dataclass
class Likelihoods:
    """What the rewriter makes of gold and training answers, in nats a token, a row a value."""

    gold: Histogram = field(default_factory=lambda: Histogram(0, NATS, NATS_BINS))
    training: Histogram = field(default_factory=lambda: Histogram(0, NATS, NATS_BINS))


@dataclass
class Tally:
    """What the decisions add up to."""

    tau: float | None
    judge_stop: float | None
    rows: int = 0
    damaged: int = 0
    rewritten: int = 0
    passed: int = 0
    fused: int = 0
    good: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    similarities: dict[str, Counter[int]] = field(default_factory=dict)
    rewrite_objections: Counter[str] = field(default_factory=Counter)
    fusion_objections: Counter[str] = field(default_factory=Counter)
    rounds: dict[int, RoundTally] = field(default_factory=dict)
    judges: dict[str, JudgeTally] = field(default_factory=dict)
    spread: Histogram = field(default_factory=lambda: Histogram(0, 1, 10))
    likelihoods: Likelihoods = field(default_factory=Likelihoods)
    accepted: Examples = field(default_factory=lambda: Examples(SHOWN_EXAMPLES))
    rejected: Examples = field(default_factory=lambda: Examples(SHOWN_EXAMPLES))
    first: list[Record] = field(default_factory=list)

    @property
    def anchor(self) -> float:
        """τ is an edge of the similarities' bins, so that no bar holds both sides of it."""
        return 0.8 if self.tau is None else self.tau


def count(decisions: Iterable[Record | None], tau: float | None,
          judge_stop: float | None) -> Tally:
    """Count the lines of decisions.jsonl; None stands for one that could not be read."""
    tally = Tally(tau, judge_stop)
    for record in decisions:
        if record is None:
            tally.damaged += 1
        else:
            _add(tally, record)
    return tally


def objections(record: Record) -> dict[str, str]:
    """The checks that refused an answer, with their reasons."""
    return {name: reason for name, reason in (record.get("checks") or {}).items()
            if reason is not None}


def best_round(record: Record) -> Record | None:
    """The round with the best mean score, the earlier of equals (Eq. 4)."""
    scored = [one for one in record.get("rounds") or [] if one.get("score") is not None]
    return max(scored, key=lambda one: one["score"], default=None)


def _add(tally: Tally, record: Record) -> None:
    refused, source = objections(record), record["source"]
    passed = not refused if "checks" in record else source != "gold"
    tally.rows += 1
    tally.rewritten += bool(record.get("rewrite"))
    tally.passed += passed
    tally.sources[source] += 1
    tally.rewrite_objections.update(refused.keys())
    if len(tally.first) < SHOWN_DECISIONS:
        tally.first.append({key: record.get(key)
                            for key in ("row_id", "source", "similarity", "why")})
    _add_similarity(tally, record.get("similarity"), passed)
    _add_rounds(tally, record)
    _add_likelihoods(tally.likelihoods, record.get("nll") or {}, source)
    if source != "gold":
        tally.accepted.add(f"{source} after {len(record.get('rounds') or [])} rounds", record)
    elif not passed:
        tally.rejected.add(next(iter(refused), "unknown"), record)


def _add_similarity(tally: Tally, similarity: float | None, passed: bool) -> None:
    if similarity is None:
        return
    above = tally.tau is None or similarity >= tally.tau
    place = math.floor((min(similarity, 1 - 1e-9) - tally.anchor) / BIN)
    place = max(place, 0) if similarity >= tally.anchor else min(place, -1)
    kind = PASSED if passed else OTHER_CHECK if above else BELOW
    tally.similarities.setdefault(kind, Counter())[place] += 1


def _add_rounds(tally: Tally, record: Record) -> None:
    rounds, best = record.get("rounds") or [], best_round(record)
    tally.fused += any(one.get("fused") and not objections(one) for one in rounds)
    tally.good += (best is not None and tally.judge_stop is not None
                   and best["score"] >= tally.judge_stop)
    for one in rounds:
        found = tally.rounds.setdefault(one["round"], RoundTally())
        found.drawn += 1
        refused = objections(one)
        found.refused += bool(refused)
        tally.fusion_objections.update(refused.keys())
        if one.get("score") is not None:
            found.scores.add(one["score"])
        found.chosen += record["source"] == "fused" and one is best
        _add_scores(tally, one.get("scores") or [])


def _add_scores(tally: Tally, scores: list[Record]) -> None:
    given = [one["score"] for one in scores if one["score"] is not None]
    if len(given) > 1:
        tally.spread.add(max(given) - min(given))
    for one in scores:
        judge = tally.judges.setdefault(one["judge"], JudgeTally())
        if one["score"] is None:
            judge.failed += 1
            judge.error = judge.error or one["error"]
            continue
        judge.scores.add(one["score"])
        if len(given) > 1:
            judge.apart.add(one["score"] - (sum(given) - one["score"]) / (len(given) - 1))


def _add_likelihoods(likelihoods: Likelihoods, nll: Record, source: str) -> None:
    gold, training = nll.get("gold"), nll.get(source)
    if gold is not None and training is not None:
        likelihoods.gold.add(gold)
        likelihoods.training.add(training)
