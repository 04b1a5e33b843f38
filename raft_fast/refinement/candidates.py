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


@dataclass(eq=False)
class Candidate:
    """A possible answer to a row. `number` counts the draws of one origin from 1, the gold answer is 0.
    `scores` by name, None where one is missing (which is not 0). `objections` by check, None without one."""

    row: Row = field(repr=False)
    origin: str
    number: int
    reply: Reply
    scores: dict[str, float | None] = field(default_factory=dict)
    objections: dict[str, str | None] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)

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
        errors = [f"{said.judge}: {said.error}" for said in self.verdicts if said.error is not None]
        few = [f"only {len(self.given)} of {len(self.verdicts)} judges gave a score"] if self.given else []
        return "; ".join(self.reasons or [*few, *errors])


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
    """A row's candidates and, among them, those trained on: none drops the row, several repeat it."""

    row: Row
    candidates: list[Candidate]
    picks: list[Candidate]
    why: str

    def as_json(self) -> Record:
        """The row's line in decisions.jsonl: the first rewrite has keys of its own, `rounds` holds all other
        candidates but the gold answer."""
        row, pick = self.row, self.picks[0] if self.picks else None
        first = next((one for one in self.candidates if one.origin == REWRITE), None)
        rewrite = first or Candidate(row, REWRITE, 1, Reply(""))
        others = [one for one in self.candidates if one.origin != GOLD and one is not first]
        nll = {one.origin: one.scores[NLL] for one in self.candidates if NLL in one.scores}
        long = any(Case("", row.gold, one.reply).too_long for one in self.candidates)
        # Eq. 4 always picks the best of an origin; of other recipes the line names the picks
        plain = pick and len(self.picks) == 1 and {one.origin for one in others} <= {FUSED}
        return {
            "row_id": row.row_id, "category": row.category, "prompt": row.prompt, "gold": row.gold,
            **_told(rewrite), "passed": bool(rewrite.text) and rewrite.passed,
            "rounds": [_round(one) for one in others],
            "source": pick and pick.origin, "completion": pick and pick.text,
            **({} if plain else {"picks": [[one.origin, one.number] for one in self.picks]}),
            "why": self.why + (f"; too long for the checks {', '.join(COMPARING)}" if long else ""),
            "nll": {**dict.fromkeys((GOLD, REWRITE, FUSED)), **nll} if nll else None,
            "tokens": self._tokens(),
        }

    def _tokens(self) -> Record:
        found: dict[str, list[Reply]] = {"rewrite": [], "fuse": [], "judge": []}
        for one in self.candidates:
            if one.origin != GOLD:
                found.setdefault(TASKS.get(one.origin, one.origin), []).append(one.reply)
            found["judge"] += [said.reply for said in one.verdicts]
        return {task: _spent(*replies) for task, replies in found.items()}


def _told(one: Candidate) -> Record:
    return {one.origin: one.text or None, "key": one.reply.key, "similarity": one.scores.get(SIMILARITY),
            "checks": one.objections}


def _round(one: Candidate) -> Record:
    verdicts = [{"judge": said.judge, "score": said.score, "error": said.error, "key": said.reply.key,
                 "tokens": _spent(said.reply)} for said in one.verdicts]
    others = {name: value for name, value in one.scores.items() if name not in (SIMILARITY, JUDGE, NLL)}
    return {"origin": one.origin, "round": one.number, **_told(one), "scores": verdicts,
            "score": one.scores.get(JUDGE), "no_score": one.no_score,
            **({"other_scores": others} if others else {})}


def _spent(*replies: Reply) -> dict[str, int]:
    return {"prompt": sum(reply.prompt_tokens for reply in replies),
            "completion": sum(reply.completion_tokens for reply in replies)}


def refined_rows(line: Record) -> list[Row]:
    """The rows that a line of decisions.jsonl makes, one a pick: ROW_ID, ROW_ID#2, ... `rewrite` is the one
    that passed (ȳ), `fused` the pick that is a fusion (ŷ), null where there is none."""
    everyone, picks = read_line(line)
    rewrites = [one for one in everyone if one.origin == REWRITE]
    rewrite = first_passing(rewrites)
    return [Row(
        row_id=line["row_id"] + (f"#{place}" if place > 1 else ""), prompt=line["prompt"],
        completion=pick.text, gold=line["gold"], category=line["category"],
        rewrite=(rewrite and rewrite.text) or None, fused=pick.text if pick.origin == FUSED else None,
        source=pick.origin, similarity=(rewrites[0] if rewrites else pick).scores.get(SIMILARITY),
    ) for place, pick in enumerate(picks, 1)]


def read_line(line: Record) -> tuple[list[Candidate], list[Candidate]]:
    """(the candidates, the picks) of a line of decisions.jsonl. Raises KeyError without row_id or source."""
    gold, source = line.get("gold") or "", line["source"]
    row = Row(line["row_id"], line.get("prompt") or [], gold, gold, line.get("category"))
    found = [Candidate.gold(row)]
    if line.get("rewrite") or line.get("checks"):
        found.append(_read(row, REWRITE, line | {"round": 1, "scores": [], "tokens": {}}))
    found += [_read(row, one.get("origin", FUSED), one) for one in line.get("rounds") or []]
    picks = [one for place in line.get("picks") or () for one in found if [one.origin, one.number] == place]
    same = [one for one in found if one.origin == source and not picks]
    picks += [best(same, JUDGE) or same[0]] if same else []
    for one in {id(one): one for one in (*found[:2], *picks)}.values():
        if line.get("nll"):
            one.scores[NLL] = line["nll"].get(one.origin)
    return found, picks


def _read(row: Row, origin: str, one: Record) -> Candidate:
    scores = {SIMILARITY: one.get("similarity"), JUDGE: one.get("score"), **one.get("other_scores", {})}
    spent = [said.get("tokens") or _spent() for said in one["scores"]]
    verdicts = [Verdict(said["judge"], said["score"], said.get("error"), Reply(
        "", prompt_tokens=tokens["prompt"], completion_tokens=tokens["completion"], key=said.get("key")))
        for said, tokens in zip(one["scores"], spent, strict=True)]
    return Candidate(row, origin, one["round"], Reply(one.get(origin) or "", key=one.get("key")),
                     {name: value for name, value in scores.items() if value is not None},
                     dict(one.get("checks") or {}), verdicts)
