"""What refining would take: requests, tokens and money, counted without asking any engine."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from raft_fast.data.dataset import Row
from raft_fast.data.texts import Message
from raft_fast.engines import Price, Reply
from raft_fast.engines.prompting import Prompts
from raft_fast.refinement.decisions import Filtered
from raft_fast.refinement.fuse import fuse_request, most_rounds
from raft_fast.refinement.judge import judge_request
from raft_fast.refinement.rewrite import rewrite_request
from raft_fast.run.options import RefineOptions

CHARACTERS_A_TOKEN = 4.0  # of English; other languages have fewer
TOKENS_A_SCORE = 4  # {"score": 7}; a judge that thinks writes more

Count = Callable[[Sequence[Message]], int]


@dataclass(frozen=True)
class Caller:
    """Who would be asked. `count` gives a prompt's tokens, None where only characters can tell."""

    option: str
    spec: str
    count: Count | None = None
    price: Price | None = None

    def tokens(self, messages: Sequence[Message]) -> int:
        if self.count is not None:
            return self.count(messages)
        return round(sum(len(turn["content"]) for turn in messages) / CHARACTERS_A_TOKEN)


@dataclass(frozen=True)
class Estimate:
    """What one caller would get: requests, tokens of their prompts, tokens it would likely write and
    could write at most (None: as many as its server lets it)."""

    caller: Caller
    requests: int = 0
    prompt_tokens: int = 0
    likely_tokens: int = 0
    most_tokens: int | None = 0

    def plus(self, prompt: int, likely: int, most: int | None, times: int = 1) -> "Estimate":
        return replace(
            self, requests=self.requests + times, prompt_tokens=self.prompt_tokens + times * prompt,
            likely_tokens=self.likely_tokens + times * likely,
            most_tokens=None if most is None or self.most_tokens is None
            else self.most_tokens + times * most)

    @property
    def cost(self) -> float | None:
        price = self.caller.price
        return None if price is None else price.of(self.prompt_tokens, self.likely_tokens)


def samples(row: Row, options: RefineOptions, prompts: Prompts) -> dict[str, list[Message]]:
    """A request of every kind for a row, its gold answer standing in for rewrite and fusion."""
    found = {"rewrite": rewrite_request(row, prompts.rewrite)}
    if options.fusion_rounds:
        found["fuse"] = fuse_request(_as_if_passed(row), prompts.fuse)
        found["judge"] = judge_request(row, row.gold, prompts.judge)
    return found


def estimate(
    rows: Iterator[Row], options: RefineOptions, prompts: Prompts, rewriter: Caller, fuser: Caller,
    judges: Sequence[Caller], advance: Callable[[int], None],
) -> list[Estimate]:
    """The most that stage 1 can ask for: every row passes the filter and no round is good enough.

    What is not there yet is taken to be as long as the gold answer.
    """
    rounds, longest = most_rounds(options), options.rewrite_max_new_tokens
    rewriting, fusing = Estimate(rewriter), Estimate(fuser)
    judging = [Estimate(one) for one in judges]
    for row in rows:
        requests = samples(row, options, prompts)
        answer = min(rewriter.tokens([Message(role="assistant", content=row.gold)]), longest)
        rewriting = rewriting.plus(rewriter.tokens(requests["rewrite"]), answer, longest)
        if rounds:
            fusing = fusing.plus(fuser.tokens(requests["fuse"]), answer, longest, rounds)
            judging = [one.plus(one.caller.tokens(requests["judge"]), TOKENS_A_SCORE, None, rounds)
                       for one in judging]
        advance(1)
    return [rewriting, fusing, *judging] if rounds else [rewriting]


def told(estimates: Sequence[Estimate], rows: int) -> Iterator[str]:
    """The estimates in words and one table."""
    yield (f"{rows:,} rows; at most {sum(one.requests for one in estimates):,} requests, at least "
           f"{estimates[0].requests:,} (no rewrite passes the filter)")
    again = sum(one.requests for one in estimates
                if one.caller.option == "--judge" and "://" in one.caller.spec)
    if again:
        yield (f"a judge's reply without a score is asked for a second time: up to {again:,} more, not "
               "counted here")
    yield f"{'':<12}{'requests':>12}{'prompt':>16}{'written':>16}{'at most':>16}{'cost':>12}"
    for one in estimates:
        most = "-" if one.most_tokens is None else f"{one.most_tokens:,}"
        cost = "-" if one.cost is None else f"{one.cost:,.2f}"
        yield (f"{one.caller.option:<12}{one.requests:>12,}{one.prompt_tokens:>16,}"
               f"{one.likely_tokens:>16,}{most:>16}{cost:>12}  {one.caller.spec}")
    costs = [one.cost for one in estimates if one.cost is not None]
    if costs:
        yield f"cost of all with a price, as written: at most {sum(costs):,.2f}"
    guessed = sorted({one.caller.spec for one in estimates if one.caller.count is None})
    if guessed:
        yield (f"tokens of {', '.join(guessed)} are guessed, {CHARACTERS_A_TOKEN:g} characters each: "
               "its tokenizer is not here")
    yield ("rewrites and fusions are taken to be as long as the gold answers; what journal.jsonl holds "
           "already is not asked for again")


def _as_if_passed(row: Row) -> Filtered:
    return Filtered(row, Reply(row.gold), None, {})
