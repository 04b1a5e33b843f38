"""What stage 1 knows about a row and decides about it: one line of decisions.jsonl."""

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from raft_fast.data.dataset import Row
from raft_fast.engines import Reply
from raft_fast.engines.journal import NOT_ASKED
from raft_fast.engines.journal_lines import Recorded
from raft_fast.refinement.checks import COMPARING, Case, Checks

MEAN_DIGITS = 9  # equal means compare equal, whatever order the scores were added in


def objections(checks: Checks) -> list[str]:
    """What the checks have against an answer; empty where it may be used."""
    return [reason for reason in checks.values() if reason is not None]


@dataclass(frozen=True)
class Tokens:
    """Tokens of requests and replies."""

    prompt: int = 0
    completion: int = 0

    @classmethod
    def of(cls, *replies: Reply) -> "Tokens":
        return cls(sum(reply.prompt_tokens for reply in replies),
                   sum(reply.completion_tokens for reply in replies))

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.prompt + other.prompt, self.completion + other.completion)


@dataclass(frozen=True)
class Filtered:
    """A row after rewriting and the semantic filter (Eqs. 1-3)."""

    row: Row
    rewrite: Reply
    similarity: float | None
    checks: Checks

    @property
    def passed(self) -> bool:
        return not objections(self.checks)

    @property
    def left_out(self) -> str:
        """Which checks a text was too long for, as the end of a sentence."""
        long = Case("", self.row.gold, self.rewrite).too_long
        return f"; too long for the checks {', '.join(COMPARING)}" if long else ""

    @property
    def answer(self) -> str:
        """ȳ of Eq. 3."""
        return self.rewrite.text if self.passed else self.row.gold


@dataclass(frozen=True)
class Verdict:
    """One judge on one fusion: a score in [0, 1], or why there is none."""

    judge: str
    score: float | None
    error: str | None
    tokens: Tokens
    key: str | None = None


@dataclass(frozen=True)
class Round:
    """One fusion of a row and what the judges said. A fusion with objections is not judged."""

    number: int
    fusion: Reply
    similarity: float | None
    checks: Checks
    quorum: int = 1
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def scores(self) -> list[float]:
        """A missing score is missing, not 0."""
        return [verdict.score for verdict in self.verdicts if verdict.score is not None]

    @property
    def score(self) -> float | None:
        """The mean over the judges that gave a score (Eq. 4), where they are enough."""
        if len(self.scores) < max(self.quorum, 1):
            return None
        return _mean(self.scores)

    @property
    def disagreement(self) -> dict[str, float] | None:
        """How far the scores lie apart: their range, and the mean difference of any two."""
        if len(self.scores) < 2:
            return None
        return {
            "range": round(max(self.scores) - min(self.scores), MEAN_DIGITS),
            "mean_difference": _mean([abs(a - b) for a, b in combinations(self.scores, 2)]),
        }

    @property
    def no_score(self) -> str | None:
        """Why there is no score, where there is none."""
        if self.score is not None:
            return None
        if told := objections(self.checks):
            return "; ".join(told)
        errors = [f"{one.judge}: {one.error}" for one in self.verdicts if one.error is not None]
        if self.scores:
            errors.insert(0, f"{len(self.scores)} of {len(self.verdicts)} judges gave a score and the "
                             f"quorum is {self.quorum}")
        return "; ".join(errors)


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), MEAN_DIGITS)


@dataclass(frozen=True)
class Decision:
    """The training answer of a row, where it comes from and why."""

    filtered: Filtered
    rounds: list[Round]
    source: str
    answer: str
    why: str
    nll: dict[str, float | None] | None = None

    @property
    def tokens(self) -> dict[str, Tokens]:
        verdicts = [verdict for one in self.rounds for verdict in one.verdicts]
        return {
            "rewrite": Tokens.of(self.filtered.rewrite),
            "fuse": Tokens.of(*(one.fusion for one in self.rounds)),
            "judge": sum((verdict.tokens for verdict in verdicts), Tokens()),
        }

    @property
    def whole(self) -> bool:
        """Whether every reply it rests on was asked for."""
        errors = [self.filtered.rewrite.error]
        for one in self.rounds:
            errors += [one.fusion.error, *(verdict.error for verdict in one.verdicts)]
        return NOT_ASKED not in errors

    def as_json(self) -> dict[str, Any]:
        """The row's line in decisions.jsonl (docs/FILES.md describes it)."""
        row, filtered = self.filtered.row, self.filtered
        return {
            "row_id": row.row_id, "category": row.category, "prompt": row.prompt, "gold": row.gold,
            "rewrite": _text(filtered.rewrite), "key": _key(filtered.rewrite),
            "similarity": filtered.similarity, "checks": filtered.checks, "passed": filtered.passed,
            "rounds": [_round_as_json(one) for one in self.rounds],
            "source": self.source, "completion": self.answer, "why": self.why + filtered.left_out,
            "nll": self.nll,
            "tokens": {part: dict(vars(tokens)) for part, tokens in self.tokens.items()},
        }


def refined_row(line: dict[str, Any]) -> Row:
    """The row that a line of decisions.jsonl makes. `rewrite` holds ȳ where the filter passed it,
    `fused` ŷ where it was chosen: what is null was not good enough to train on."""
    return Row(
        row_id=line["row_id"], prompt=line["prompt"], completion=line["completion"],
        gold=line["gold"], category=line["category"],
        rewrite=line["rewrite"] if line["passed"] else None,
        fused=line["completion"] if line["source"] == "fused" else None,
        source=line["source"], similarity=line["similarity"])


def _round_as_json(one: Round) -> dict[str, Any]:
    scores = [{"judge": verdict.judge, "score": verdict.score, "error": verdict.error,
               "key": verdict.key, "tokens": dict(vars(verdict.tokens))} for verdict in one.verdicts]
    return {"round": one.number, "fused": _text(one.fusion), "key": _key(one.fusion),
            "similarity": one.similarity, "checks": one.checks, "scores": scores, "score": one.score,
            "no_score": one.no_score, "disagreement": one.disagreement}


def _text(reply: Reply) -> str | None:
    return reply.text or None


def _key(reply: Reply) -> str | None:
    return reply.key if isinstance(reply, Recorded) else None


def decide(filtered: Filtered, rounds: list[Round], least: float = 0.0) -> Decision:
    """Eq. 4: the fusion with the best mean score is the training answer ŷ (the earlier of equals).

    A row that failed the filter keeps y; one without a fusion that has a score of at least `least`
    (0, as in the paper: any) keeps ȳ.
    """
    if not filtered.passed:
        return Decision(filtered, rounds, "gold", filtered.row.gold,
                        "; ".join(objections(filtered.checks)))
    best = max((one for one in rounds if one.score is not None),
               key=lambda one: one.score or 0.0, default=None)
    if best is None:
        return Decision(filtered, rounds, "rewrite", filtered.answer, _why_no_fusion(rounds))
    if (best.score or 0.0) < least:
        return Decision(filtered, rounds, "rewrite", filtered.answer,
                        f"no fusion's mean score reaches {least:g}; the best is {best.score:.3f}")
    voters = sum(verdict.score is not None for verdict in best.verdicts)
    return Decision(filtered, rounds, "fused", best.fusion.text,
                    f"round {best.number} of {len(rounds)} has the best mean score, "
                    f"{best.score:.3f} from {voters} of {len(best.verdicts)} judges")


def _why_no_fusion(rounds: list[Round]) -> str:
    if not rounds:
        return "it passed the filter, and no fusion was asked for"
    reasons = ", ".join(f"round {one.number}: {one.no_score}" for one in rounds)
    return f"no fusion has a score ({reasons})"
