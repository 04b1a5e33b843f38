"""summary.json: what the lines of decisions.jsonl come to, counted as they are written or read back."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raft_fast.engines.asking import Prompts
from raft_fast.refinement.bench import Roles
from raft_fast.refinement.candidates import (
    FUSED,
    GOLD,
    NLL,
    REWRITE,
    SIMILARITY,
    Candidate,
    Record,
    Verdict,
    mean,
    read_line,
)
from raft_fast.refinement.checks import COMPARING, Case
from raft_fast.refinement.parts import NLL_DIGITS
from raft_fast.run.options import RefineOptions

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
REASONS = 3  # that a line names
DECIDING = ("tau", "fused_tau", "fused_least", "judge_stop", "fusion_rounds")


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """p00 (the least) to p100 (the most); None without values."""
    if not values:
        return None
    return {f"p{round(100 * at):02d}": float(np.quantile(values, at)) for at in QUANTILES}


@dataclass
class Group:
    """Candidates of one origin, or of one of its draws."""

    drawn: int = 0
    passed: int = 0
    chosen: int = 0
    objections: Counter[str] = field(default_factory=Counter)
    scores: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, one: Candidate, chosen: bool) -> None:
        self.drawn += 1
        self.passed += one.passed
        self.chosen += chosen
        self.objections.update(name for name, reason in one.objections.items() if reason is not None)
        for name, value in one.scores.items():
            self.scores[name].extend([value] if value is not None else [])


@dataclass
class Judged:
    """One judge: its scores, failures with the first error, and tokens."""

    scores: list[float] = field(default_factory=list)
    failed: int = 0
    error: str | None = None
    tokens: Counter[str] = field(default_factory=lambda: Counter(prompt=0, completion=0))

    def add(self, said: Verdict) -> None:
        self.tokens.update(prompt=said.reply.prompt_tokens, completion=said.reply.completion_tokens)
        self.scores.extend([said.score] if said.score is not None else [])
        self.failed += said.score is None
        self.error = self.error or said.error


@dataclass
class Tally:
    """Counts over the lines of decisions.jsonl, by origin, draw, score and check. It depends on the lines
    alone, so shards add up to the whole.

    `origins["fused"]` has all fusions, `draws["fused", 2]` those of the second round. `passed` counts rows
    with a candidate that passed, the gold answer aside. `nlls` are
    (gold answer, training answer) of a row.
    """

    rows: int = 0
    passed: int = 0
    too_long: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    origins: defaultdict[str, Group] = field(default_factory=lambda: defaultdict(Group))
    draws: defaultdict[tuple[str, int], Group] = field(default_factory=lambda: defaultdict(Group))
    tokens: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    judges: defaultdict[str, Judged] = field(default_factory=lambda: defaultdict(Judged))
    nlls: list[tuple[float, float]] = field(default_factory=list)

    def add(self, line: Record) -> None:
        """One row's line."""
        candidates, picks = read_line(line)
        for one in candidates:
            chosen = any(one is pick for pick in picks)
            self.origins[one.origin].add(one, chosen)
            self.draws[one.origin, one.number].add(one, chosen)
            for said in one.verdicts:
                self.judges[said.judge].add(said)
        self.rows += 1
        self.passed += any(one.passed for one in candidates if one.origin != GOLD)
        self.too_long += any(Case("", one.row.gold, one.reply).too_long for one in candidates)
        self.sources.update(pick.origin for pick in picks)
        for task, spent in (line.get("tokens") or {}).items():
            self.tokens[task].update(spent)
        gold, training = candidates[0].scores.get(NLL), picks[0].scores.get(NLL) if picks else None
        if gold is not None and training is not None:
            self.nlls.append((gold, training))

    def as_json(self) -> dict[str, Any]:
        """The part of summary.json that the rows decide."""
        rewrites = self.origins[REWRITE]
        others = {name: {
            "drawn": one.drawn, "passed": one.passed, "chosen": one.chosen,
            "objections": dict(sorted(one.objections.items())),
            "scores": {score: quantiles(found) for score, found in sorted(one.scores.items())},
        } for name, one in sorted(self.origins.items()) if name not in (GOLD, REWRITE, FUSED)}
        return {
            "sources": {**dict.fromkeys((GOLD, REWRITE, FUSED), 0), **self.sources},
            "passed_filter": self.passed,
            "too_long": self.too_long,
            "objections": dict(sorted(rewrites.objections.items())),
            "similarity": quantiles(rewrites.scores[SIMILARITY]),
            "judges": {name: {
                "scores": len(one.scores), "failed": one.failed, "tokens": dict(one.tokens),
                "mean": mean(one.scores) if one.scores else None,
            } for name, one in sorted(self.judges.items())},
            "tokens": {task: dict(spent) for task, spent in self.tokens.items()},
            "supervision_gap": self._supervision_gap(),
            **({"origins": others} if others else {}),
        }

    def _supervision_gap(self) -> dict[str, Any] | None:
        """NLL(gold) - NLL(training answer) in nats a token, every row counting the same."""
        if not self.nlls:
            return None
        gold, training = np.mean(self.nlls, 0).tolist()
        return {"rows": len(self.nlls), "gold": round(gold, NLL_DIGITS),
                "training": round(training, NLL_DIGITS), "gap": round(gold - training, NLL_DIGITS)}


def settings(options: RefineOptions, roles: Roles, prompts: Prompts, seed: int) -> dict[str, Any]:
    """The part of summary.json that does not depend on the rows."""
    judges = [engine.identity for engine in roles.judges]
    return {
        **{name: getattr(options, name) for name in DECIDING},
        "quorum": options.quorum or len(judges) // 2 + 1,
        "engines": {"rewriter": roles.rewriter.identity, "fuser": roles.fuser and roles.fuser.identity,
                    "judges": judges},
        "fuser_is_judge": roles.fuser is not None and roles.fuser.identity in judges,
        "prompts": {prompt.name: prompt.version for prompt in prompts},
        "seed": seed,
    }


def outcome(summary: dict[str, Any]) -> list[str]:
    """What came of the rows, in sentences; why, if no answer can be used."""
    rows, passed = summary["rows"]["used"], summary["passed_filter"]
    sources = ", ".join(f"{count:,} {source}" for source, count in summary["sources"].items() if count)
    what = "rows have an answer that passed" if "origins" in summary else "rewrites passed the filter"
    lines = [f"{passed:,} of {rows:,} {what}; training answers: {sources}"]
    if long := summary.get("too_long"):
        lines[0] += f"; {long:,} too long for the checks {', '.join(COMPARING)}"
    if not passed:
        told = ", ".join(f"{name} {count:,}" for name, count in
                         Counter(summary["objections"]).most_common(REASONS))
        lines.append(f"nothing was refined: every row keeps its gold answer. Refused by: {told}; report.html "
                     "shows examples, decisions.jsonl every row")
    return lines
