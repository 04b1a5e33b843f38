"""summary.json: what the lines of decisions.jsonl come to, counted as they are written or read back."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from raft_fast.engines import Engine
from raft_fast.engines.asking import Prompts
from raft_fast.refinement.bench import Roles, no_likelihoods
from raft_fast.refinement.candidates import (
    FUSED,
    GOLD,
    JUDGE,
    NLL,
    REWRITE,
    SIMILARITY,
    Candidate,
    Record,
    disagreement,
    read_line,
)
from raft_fast.refinement.checks import COMPARING, Case
from raft_fast.refinement.parts import NLL_DIGITS
from raft_fast.run.options import RefineOptions

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
REASONS = 3  # that a line names
POOR = 0.5  # a fusion that judges find more bad than good


class Values:
    """Numbers, eight bytes each, with their mean, quantiles and histogram; None where there are none."""

    def __init__(self) -> None:
        self.numbers = array("d")

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, value: float | None) -> None:
        """A missing value is left out."""
        if value is not None:
            self.numbers.append(value)

    @property
    def mean(self) -> float | None:
        return round(float(np.mean(self.numbers)), 9) if self.numbers else None

    def quantile(self, share: float) -> float | None:
        return float(np.quantile(self.numbers, share)) if self.numbers else None

    def quantiles(self) -> dict[str, float] | None:
        """p00 (the least) to p100 (the most)."""
        return {f"p{round(100 * at):02d}": float(value) for at, value in zip(
            QUANTILES, np.quantile(self.numbers, QUANTILES), strict=True)} if self.numbers else None

    def histogram(self, edges: Sequence[float]) -> list[int]:
        """How many lie between each two of the ascending edges; what lies outside counts at the end."""
        return np.histogram(np.clip(self.numbers, edges[0], edges[-1]), edges)[0].tolist()

    def share(self, least: float) -> int:
        """How many are at least this."""
        return int((np.asarray(self.numbers) >= least).sum())


@dataclass
class Scores:
    """One score of many candidates: of those without objections, the refused, each row's best, the chosen."""

    passed: Values = field(default_factory=Values)
    refused: Values = field(default_factory=Values)
    best: Values = field(default_factory=Values)
    chosen: Values = field(default_factory=Values)

    @property
    def all(self) -> Values:
        both = Values()
        both.numbers = self.passed.numbers + self.refused.numbers
        return both


@dataclass
class Group:
    """Candidates of one origin, or of one of its draws. `rows` have at least one without objections."""

    drawn: int = 0
    passed: int = 0
    chosen: int = 0
    rows: int = 0
    objections: Counter[str] = field(default_factory=Counter)
    scores: defaultdict[str, Scores] = field(default_factory=lambda: defaultdict(Scores))

    def add(self, candidates: Sequence[Candidate], picks: Sequence[Candidate]) -> None:
        """One row's candidates."""
        for one in candidates:
            chosen = any(one is pick for pick in picks)
            self.drawn += 1
            self.passed += one.passed
            self.chosen += chosen
            self.objections.update(name for name, reason in one.objections.items() if reason is not None)
            for name, value in one.scores.items():
                found = self.scores[name]
                (found.passed if one.passed else found.refused).add(value)
                if chosen:
                    found.chosen.add(value)
        passed = [one for one in candidates if one.passed]
        self.rows += bool(passed)
        for name in {name for one in passed for name in one.scores}:
            values = [value for one in passed if (value := one.scores.get(name)) is not None]
            self.scores[name].best.add(max(values, default=None))


@dataclass
class Judged:
    """One judge: its scores, failures, tokens, and how far each score is from the other judges' mean."""

    scores: Values = field(default_factory=Values)
    apart: Values = field(default_factory=Values)
    failed: int = 0
    error: str | None = None
    tokens: Counter[str] = field(default_factory=lambda: Counter(prompt=0, completion=0))


class Tally:
    """Counts over the lines of decisions.jsonl, by origin, draw, score and check. It depends on the lines
    alone, so shards add up to the whole.

    `origins["fused"]` has all fusions, `draws["fused", 2]` those of the second round.
    """

    def __init__(self) -> None:
        self.rows = self.too_long = 0
        self.sources: Counter[str] = Counter()
        self.origins: defaultdict[str, Group] = defaultdict(Group)
        self.draws: defaultdict[tuple[str, int], Group] = defaultdict(Group)
        self.rounds: Counter[int] = Counter()  # rows by their number of fusions
        self.tokens: dict[str, Counter[str]] = {}
        self.judges: defaultdict[str, Judged] = defaultdict(Judged)
        self.ranges, self.differences = Values(), Values()
        self.gold_nll, self.training_nll = Values(), Values()

    def add(self, line: Record) -> None:
        """One row's line; what an older file's line lacks is not counted."""
        candidates, picks = read_line(line)
        self.rows += 1
        self.sources.update(pick.origin for pick in picks)
        for origin in dict.fromkeys(one.origin for one in candidates):
            self.origins[origin].add([one for one in candidates if one.origin == origin], picks)
        for one in candidates:
            self.draws[one.origin, one.number].add([one], picks)
            self._add_verdicts(one)
        self.too_long += any(Case("", one.row.gold, one.reply).too_long for one in candidates
                             if one.origin == REWRITE)
        self.rounds[sum(one.origin == FUSED for one in candidates)] += 1
        for task, spent in (line.get("tokens") or {}).items():
            self.tokens.setdefault(task, Counter(prompt=0, completion=0)).update(spent)
        gold, training = ([one.scores[NLL] for one in found if one.scores.get(NLL) is not None]
                          for found in ([one for one in candidates if one.origin == GOLD], picks[:1]))
        if gold and training:
            self.gold_nll.add(gold[0])
            self.training_nll.add(training[0])

    def _add_verdicts(self, one: Candidate) -> None:
        given = one.given
        for said in one.verdicts:
            judge = self.judges[said.judge]
            judge.tokens.update(prompt=said.reply.prompt_tokens, completion=said.reply.completion_tokens)
            if said.score is None:
                judge.failed += 1
                judge.error = judge.error or said.error
                continue
            judge.scores.add(said.score)
            if len(given) > 1:
                judge.apart.add(said.score - (sum(given) - said.score) / (len(given) - 1))
        if apart := disagreement(given):
            self.ranges.add(apart["range"])
            self.differences.add(apart["mean_difference"])

    def as_json(self) -> dict[str, Any]:
        """The part of summary.json that the rows decide."""
        rewrites, fusions = self.origins[REWRITE], self.origins[FUSED]
        chosen = fusions.scores[JUDGE].chosen
        failed = {name: one.failed for name, one in sorted(self.judges.items()) if one.failed}
        others = {name: one for name, one in self.origins.items() if name not in (GOLD, REWRITE, FUSED)}
        return {
            "sources": {**dict.fromkeys((GOLD, REWRITE, FUSED), 0), **self.sources},
            "fused_below_half": len(chosen) - chosen.share(POOR),
            "passed_filter": sum(one.rows for one in others.values()) if others else rewrites.passed,
            "too_long": self.too_long,
            "objections": dict(sorted(rewrites.objections.items())),
            "similarity": rewrites.scores[SIMILARITY].all.quantiles(),
            "rounds": {str(count): rows for count, rows in sorted(self.rounds.items())},
            "judges": {name: {"scores": len(one.scores), "failed": one.failed, "mean": one.scores.mean,
                              "tokens": dict(one.tokens)} for name, one in sorted(self.judges.items())},
            "failed_scores": failed,
            "disagreement": {"fusions": len(self.ranges), "mean_range": self.ranges.mean,
                             "mean_difference": self.differences.mean},
            "tokens": {task: dict(spent) for task, spent in self.tokens.items()},
            "supervision_gap": self._supervision_gap(),
            **({"origins": {name: {
                "drawn": one.drawn, "passed": one.passed, "chosen": one.chosen,
                "objections": dict(sorted(one.objections.items())),
                "scores": {score: found.all.quantiles() for score, found in sorted(one.scores.items())},
            } for name, one in sorted(others.items())}} if others else {}),
        }

    def _supervision_gap(self) -> dict[str, Any] | None:
        """NLL(gold) - NLL(training answer) in nats a token, every row counting the same."""
        gold, training = self.gold_nll.mean, self.training_nll.mean
        if gold is None or training is None:
            return None
        return {"rows": len(self.gold_nll), "gold": round(gold, NLL_DIGITS),
                "training": round(training, NLL_DIGITS), "gap": round(gold - training, NLL_DIGITS)}


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
        "no_likelihoods": no_likelihoods(roles.rewriter, options.supervision_gap),
        "prompts": prompts.versions,
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
    """What a million tokens of prompts and completions cost; None without a known price."""
    price = getattr(engine, "price", None)
    return None if price is None else asdict(price)
