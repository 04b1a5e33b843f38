"""summary.json: what the lines of decisions.jsonl come to, counted as they are written."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from raft_fast.engines import Engine, Reply
from raft_fast.engines.prompting import Prompts
from raft_fast.refinement.checks import COMPARING, Case
from raft_fast.refinement.likelihood import DIGITS, why_not
from raft_fast.refinement.roles import Roles
from raft_fast.run.options import RefineOptions

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
REASONS = 3  # that a line names
POOR = 0.5  # a fusion that judges find more bad than good
PARTS = ("rewrite", "fuse", "judge")


class Tally:
    """Counts over decision lines. It depends on the lines alone, so shards add up to the whole."""

    def __init__(self) -> None:
        self.rows = self.passed = self.too_long = 0
        self.sources: Counter[str] = Counter()
        self.objections: Counter[str] = Counter()
        self.rounds: Counter[int] = Counter()
        self.tokens = {part: {"prompt": 0, "completion": 0} for part in PARTS}
        self.judges: dict[str, array[float]] = {}
        self.judge_tokens: dict[str, dict[str, int]] = {}
        self.failed_scores: Counter[str] = Counter()
        self.poor_fusions = 0
        self.similarities = array("d")
        self.ranges, self.differences = array("d"), array("d")
        self.gold_nll, self.training_nll = array("d"), array("d")

    def add(self, line: dict[str, Any]) -> None:
        self.rows += 1
        self.passed += line["passed"]
        self.too_long += Case("", line["gold"], Reply(line["rewrite"] or "")).too_long
        self.sources[line["source"]] += 1
        self.objections.update(name for name, reason in line["checks"].items() if reason is not None)
        self.rounds[len(line["rounds"])] += 1
        if line["similarity"] is not None:
            self.similarities.append(line["similarity"])
        for part, spent in line["tokens"].items():
            for kind, count in spent.items():
                self.tokens[part][kind] += count
        scores = [one["score"] for one in line["rounds"] if one["score"] is not None]
        self.poor_fusions += line["source"] == "fused" and max(scores, default=0.0) < POOR
        for one in line["rounds"]:
            self._add_round(one)
        nll = line["nll"] or {}
        if nll.get("gold") is not None and nll.get(line["source"]) is not None:
            self.gold_nll.append(nll["gold"])
            self.training_nll.append(nll[line["source"]])

    def _add_round(self, one: dict[str, Any]) -> None:
        for verdict in one["scores"]:
            given = self.judges.setdefault(verdict["judge"], array("d"))
            spent = self.judge_tokens.setdefault(verdict["judge"], {"prompt": 0, "completion": 0})
            for kind, count in verdict["tokens"].items():
                spent[kind] += count
            if verdict["score"] is None:
                self.failed_scores[verdict["judge"]] += 1
            else:
                given.append(verdict["score"])
        if one["disagreement"] is not None:
            self.ranges.append(one["disagreement"]["range"])
            self.differences.append(one["disagreement"]["mean_difference"])

    def as_json(self) -> dict[str, Any]:
        return {
            "sources": {source: self.sources[source] for source in ("gold", "rewrite", "fused")},
            "fused_below_half": self.poor_fusions,
            "passed_filter": self.passed,
            "too_long": self.too_long,
            "objections": dict(sorted(self.objections.items())),
            "similarity": _quantiles(self.similarities),
            "rounds": {str(count): rows for count, rows in sorted(self.rounds.items())},
            "judges": {name: {"scores": len(given), "failed": self.failed_scores[name],
                              "mean": _mean(given), "tokens": self.judge_tokens[name]}
                       for name, given in sorted(self.judges.items())},
            "failed_scores": dict(sorted(self.failed_scores.items())),
            "disagreement": {"fusions": len(self.ranges), "mean_range": _mean(self.ranges),
                             "mean_difference": _mean(self.differences)},
            "tokens": self.tokens,
            "supervision_gap": self._supervision_gap(),
        }

    def _supervision_gap(self) -> dict[str, Any] | None:
        """NLL(gold) - NLL(training answer) in nats a token, every row counting the same."""
        gold, training = _mean(self.gold_nll), _mean(self.training_nll)
        if gold is None or training is None:
            return None
        return {"rows": len(self.gold_nll), "gold": round(gold, DIGITS),
                "training": round(training, DIGITS), "gap": round(gold - training, DIGITS)}


def settings(options: RefineOptions, roles: Roles, prompts: Prompts, seed: int) -> dict[str, Any]:
    """The part of summary.json that does not depend on the rows."""
    judges = [engine.identity for engine in roles.judges]
    return {
        "tau": options.tau,
        "fused_tau": options.fused_tau or None,
        "fused_least": options.fused_least or None,
        "judge_stop": options.judge_stop,
        "fusion_rounds": options.fusion_rounds,
        "quorum": options.quorum or len(judges) // 2 + 1,
        "engines": {
            "rewriter": roles.rewriter.identity,
            "fuser": roles.fuser.identity if roles.fuser else None,
            "judges": judges,
        },
        "prices": {
            "rewriter": _price(roles.rewriter),
            "fuser": _price(roles.fuser),
            "judges": {engine.identity: _price(engine) for engine in roles.judges},
        },
        "fuser_is_judge": roles.fuser is not None and roles.fuser.identity in judges,
        "no_likelihoods": why_not(roles.rewriter, options.supervision_gap),
        "prompts": prompts.versions,
        "seed": seed,
    }


def outcome(summary: dict[str, Any]) -> list[str]:
    """What came of the rows, in sentences; where no rewrite could be used, why."""
    rows, passed = summary["rows"]["used"], summary["passed_filter"]
    sources = ", ".join(f"{count:,} {source}" for source, count in summary["sources"].items() if count)
    lines = [f"{passed:,} of {rows:,} rewrites passed the filter; training answers: {sources}"]
    if long := summary.get("too_long"):
        lines[0] += f"; {long:,} too long for the checks {', '.join(COMPARING)}"
    if passed:
        return lines
    reasons = sorted(summary["objections"].items(), key=lambda one: -one[1])[:REASONS]
    told = ", ".join(f"{name} {count:,}" for name, count in reasons)
    lines.append(f"nothing was refined: every row keeps its gold answer. Refused by: {told}; report.html "
                 "shows examples, decisions.jsonl every row")
    suggested = (summary.get("calibration") or {}).get("suggested_tau")
    if "similarity" in summary["objections"] and suggested is not None and suggested < summary["tau"]:
        lines[1] += f"; --tau {suggested:g} fits this encoder (now {summary['tau']:g})"
    return lines


def _price(engine: Engine | None) -> dict[str, float] | None:
    """What a million tokens of prompts and completions cost, where somebody told."""
    price = getattr(engine, "price", None)
    return None if price is None else asdict(price)


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 9) if values else None


def _quantiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    found = np.quantile(values, QUANTILES)
    return {f"p{round(100 * at):02d}": float(value)
            for at, value in zip(QUANTILES, found, strict=True)}
