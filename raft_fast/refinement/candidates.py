"""Stage 1's one record: candidates for a row's answer, what was said of them, which were chosen and why."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raft_fast.data.dataset import Row
from raft_fast.engines import Reply
from raft_fast.refinement.checks import COMPARING, Case

GOLD, REWRITE, FUSED = "gold", "rewrite", "fused"
SIMILARITY, JUDGE, NLL = "similarity", "judge", "nll"  # names of scores
TASKS = {FUSED: "fuse"}  # what an origin's tokens are called in decisions.jsonl, where not after the origin
MEAN_DIGITS = 9  # equal means compare equal, whatever order the scores were added in

Record = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """One judge on one answer: a score in [0, 1], or the reason why it gave none."""

    judge: str
    score: float | None
    error: str | None
    reply: Reply = field(default_factory=lambda: Reply(""))

    @property
    def key(self) -> str | None:
        return self.reply.key


@dataclass(eq=False)
class Candidate:
    """A possible answer to a row. Proposers make candidates; critics add scores and objections in place.

    `number` counts the draws of one origin from 1; the gold answer is number 0. `scores` by name, None where
    a score is missing (which is not 0). `objections` by check, None where it has nothing against the answer.
    `unscored` says why the judges' scores make no mean.
    """

    row: Row = field(repr=False)
    origin: str
    number: int
    reply: Reply
    scores: dict[str, float | None] = field(default_factory=dict)
    objections: dict[str, str | None] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    unscored: str | None = None

    @classmethod
    def gold(cls, row: Row) -> "Candidate":
        """The answer that the data came with (y)."""
        return cls(row, GOLD, 0, Reply(row.gold))

    @property
    def text(self) -> str:
        return self.reply.text

    @property
    def reasons(self) -> list[str]:
        """What critics have against it; empty if it may be used."""
        return [reason for reason in self.objections.values() if reason is not None]

    @property
    def passed(self) -> bool:
        return not self.reasons

    @property
    def given(self) -> list[float]:
        """The judges' scores."""
        return [one.score for one in self.verdicts if one.score is not None]

    @property
    def no_score(self) -> str | None:
        """Why the judges' scores make no mean; None where they do."""
        if self.scores.get(JUDGE) is not None:
            return None
        return "; ".join(self.reasons) or self.unscored or ""


def best(candidates: Iterable[Candidate], by: str) -> Candidate | None:
    """The highest score among those without objections, the first of equals. A missing score is never
    chosen."""
    scored = [one for one in candidates if one.passed and one.scores.get(by) is not None]
    return max(scored, key=lambda one: one.scores[by] or 0.0, default=None)


def first_passing(candidates: Iterable[Candidate]) -> Candidate | None:
    """The first without objections."""
    return next((one for one in candidates if one.passed), None)


def mean(values: Sequence[float]) -> float:
    """The mean, rounded so that it does not depend on the order of the values."""
    return round(sum(values) / len(values), MEAN_DIGITS)


@dataclass(frozen=True)
class Decision:
    """The candidates of a row and, among them, those that are trained on: no pick drops the row, several
    repeat it."""

    row: Row
    candidates: list[Candidate]
    picks: list[Candidate]
    why: str

    def as_json(self) -> Record:
        """The row's line in decisions.jsonl. Gold, one rewrite and its fusions have keys of their own; any
        other set of candidates is a list."""
        row, pick = self.row, self.picks[0] if self.picks else None
        rewrites = _of(self.candidates, REWRITE)
        plain = len(rewrites) == 1 and {one.origin for one in self.candidates} <= {GOLD, REWRITE, FUSED}
        long = any(Case("", row.gold, one.reply).too_long for one in rewrites)
        nll = {one.origin: one.scores[NLL] for one in self.candidates if NLL in one.scores}
        return {
            "row_id": row.row_id, "category": row.category, "prompt": row.prompt, "gold": row.gold,
            **(self._rounds(rewrites[0]) if plain else {
                "candidates": [_as_json(one) for one in self.candidates],
                "picks": [[one.origin, one.number] for one in self.picks]}),
            "source": pick and pick.origin, "completion": pick and pick.text,
            "why": self.why + (f"; too long for the checks {', '.join(COMPARING)}" if long else ""),
            "nll": {**dict.fromkeys((GOLD, REWRITE, FUSED)), **nll} if nll else None,
            "tokens": self._tokens(),
        }

    def _rounds(self, rewrite: Candidate) -> Record:
        return {"rewrite": rewrite.text or None, "key": rewrite.reply.key,
                "similarity": rewrite.scores.get(SIMILARITY), "checks": rewrite.objections,
                "passed": rewrite.passed,
                "rounds": [{
                    "round": one.number, "fused": one.text or None, "key": one.reply.key,
                    "similarity": one.scores.get(SIMILARITY), "checks": one.objections,
                    "scores": _said(one), "score": one.scores.get(JUDGE), "no_score": one.no_score}
                    for one in _of(self.candidates, FUSED)]}

    def _tokens(self) -> Record:
        found: dict[str, list[Reply]] = {"rewrite": [], "fuse": [], "judge": []}
        for one in self.candidates:
            if one.origin != GOLD:
                found.setdefault(TASKS.get(one.origin, one.origin), []).append(one.reply)
            found["judge"] += [said.reply for said in one.verdicts]
        return {task: _spent(*replies) for task, replies in found.items()}


def refined_rows(line: Record) -> list[Row]:
    """The rows that a line of decisions.jsonl makes, one a pick: ROW_ID, ROW_ID#2, ...

    `rewrite` is the rewrite that passed (ȳ), `fused` the pick that is a fusion (ŷ): null is what was not good
    enough to train on.
    """
    everyone, picks = read_line(line)
    rewrites = _of(everyone, REWRITE)
    rewrite = first_passing(rewrites)
    return [Row(
        row_id=line["row_id"] + (f"#{place}" if place > 1 else ""), prompt=line["prompt"],
        completion=pick.text, gold=line["gold"], category=line["category"],
        rewrite=(rewrite and rewrite.text) or None, fused=pick.text if pick.origin == FUSED else None,
        source=pick.origin, similarity=(rewrites[0] if rewrites else pick).scores.get(SIMILARITY),
    ) for place, pick in enumerate(picks, 1)]


def read_line(line: Record) -> tuple[list[Candidate], list[Candidate]]:
    """(the candidates, the picks) of a line of decisions.jsonl, whichever recipe wrote it. Raises KeyError
    for a line without row_id or source."""
    gold, source = line.get("gold") or "", line["source"]
    row = Row(line["row_id"], line.get("prompt") or [], gold, gold, line.get("category"))
    if "candidates" in line:
        found = [_read(row, one["origin"], one["number"], one) for one in line["candidates"]]
        return found, [one for place in line["picks"] for one in found if [one.origin, one.number] == place]
    rewrite = line | {"text": line.get("rewrite"), "tokens": None}
    found = [Candidate.gold(row), _read(row, REWRITE, 1, rewrite)]
    found += [_read(row, FUSED, one["round"], one | {
        "text": one["fused"], "verdicts": one["scores"], "scores": None, "judge": one["score"]})
        for one in line.get("rounds") or []]
    same = [one for one in found if one.origin == source]
    same = same or [Candidate(row, source, 0, Reply(line.get("completion") or ""))]
    picks = [best(same, JUDGE) or same[0]] if source else []
    for one in {id(one): one for one in (*found[:2], *picks)}.values():
        if line.get("nll"):
            one.scores[NLL] = line["nll"].get(one.origin)
    return found, picks


def _read(row: Row, origin: str, number: int, one: Record) -> Candidate:
    scores = one.get("scores") or {name: one[name] for name in (SIMILARITY, JUDGE) if name in one}
    verdicts = [Verdict(said["judge"], said["score"], said.get("error"), _reply(said))
                for said in one.get("verdicts") or []]
    return Candidate(row, origin, number, _reply(one), dict(scores), dict(one.get("checks") or {}), verdicts,
                     one.get("no_score"))


def _reply(one: Record) -> Reply:
    tokens = one.get("tokens") or {}
    return Reply(one.get("text") or "", one.get("finish_reason") or "stop", tokens.get("prompt", 0),
                 tokens.get("completion", 0), one.get("error"), key=one.get("key"))


def _as_json(one: Candidate) -> Record:
    return {"origin": one.origin, "number": one.number, "text": one.text or None,
            "finish_reason": one.reply.finish_reason, "error": one.reply.error, "key": one.reply.key,
            "tokens": _spent(one.reply), "scores": one.scores, "checks": one.objections, "passed": one.passed,
            "verdicts": _said(one)}


def _said(one: Candidate) -> list[Record]:
    return [{"judge": said.judge, "score": said.score, "error": said.error, "key": said.key,
             "tokens": _spent(said.reply)} for said in one.verdicts]


def _spent(*replies: Reply) -> dict[str, int]:
    """Tokens of requests and replies."""
    return {"prompt": sum(reply.prompt_tokens for reply in replies),
            "completion": sum(reply.completion_tokens for reply in replies)}


def _of(candidates: Iterable[Candidate], origin: str) -> list[Candidate]:
    return [one for one in candidates if one.origin == origin]
