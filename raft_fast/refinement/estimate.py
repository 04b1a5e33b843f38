"""What refining would take: requests, tokens and money, counted without asking any engine."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from raft_fast.data.dataset import Row
from raft_fast.data.texts import Message
from raft_fast.engines import Price
from raft_fast.engines.asking import Prompts, load_prompts
from raft_fast.refinement.bench import Stage1, named_engines
from raft_fast.run.options import EngineOptions, Stage1Options
from raft_fast.run.progress import Reporter
from raft_fast.run.terminal import visible

CHARACTERS_A_TOKEN = 4.0  # of English; other languages have fewer
TOKENS_A_SCORE = 4  # {"score": 7}; a judge that thinks writes more


@dataclass
class Estimate:
    """What one engine would be asked: requests, tokens of their prompts, tokens it would likely write and
    could write at most (None: as many as its server lets it)."""

    option: str
    spec: str
    price: Price | None = None
    requests: int = 0
    prompt_tokens: int = 0
    likely_tokens: int = 0
    most_tokens: int | None = 0

    def tokens(self, messages: Sequence[Message]) -> int:
        return round(sum(len(turn["content"]) for turn in messages) / CHARACTERS_A_TOKEN)

    def add(self, times: int, prompt: int, likely: int, most: int | None) -> None:
        self.requests += times
        self.prompt_tokens += times * prompt
        self.likely_tokens += times * likely
        unbounded = most is None or self.most_tokens is None
        self.most_tokens = None if unbounded else (self.most_tokens or 0) + times * (most or 0)

    @property
    def cost(self) -> float | None:
        return None if self.price is None else self.price.of(self.prompt_tokens, self.likely_tokens)


def estimate(rows: Iterable[Row], stage: Stage1, prompts: Prompts, engines: Sequence[Estimate],
             advance: Callable[[int], None]) -> list[Estimate]:
    """The engines with the most that stage 1 can ask of them; the rewriter is the first. A text that is not
    there yet is taken to be as long as the gold answer."""
    longest = stage.options.rewrite_max_new_tokens
    for row in rows:
        answer = min(engines[0].tokens([Message(role="assistant", content=row.gold)]), longest)
        for request in stage.requests(row, stage.options, prompts):
            for one in engines:
                if one.option == request.option:
                    likely, most = (TOKENS_A_SCORE, None) if request.score else (answer, longest)
                    one.add(request.times, one.tokens(request.messages), likely, most)
        advance(1)
    return [one for one in engines if one.requests]


def show_estimate(rows: Sequence[Row], stage: Stage1, options: Stage1Options, reporter: Reporter) -> None:
    """Print a request of every kind, and how many there would be (--dry_run)."""
    prompts = load_prompts(options.refine.prompts)
    engines = [Estimate(option, spec, price(spec, options.engines))
               for option, spec in named_engines(options.refine)]
    for request in stage.requests(next(iter(rows)), stage.options, prompts):
        print(f"--- {request.task}")
        for turn in request.messages:
            print(visible(f"[{turn['role']}] {turn['content']}"))
    print("---")
    with reporter.phase("count", len(rows), "rows") as advance:
        estimates = estimate(iter(rows), stage, prompts, engines, advance)
    print("\n".join(told(estimates, len(rows))))


def price(spec: str, engines: EngineOptions) -> Price | None:
    """The price of the server that `spec` names; None if it is not known, and in this process."""
    own = engines.of(spec, spec.rpartition("@http")[0])
    return Price(*own.prices) if own.prices and "://" in spec else None


def told(estimates: Sequence[Estimate], rows: int) -> Iterator[str]:
    """The estimates in words and one table."""
    yield (f"{rows:,} rows; at most {sum(one.requests for one in estimates):,} requests, at least "
           f"{estimates[0].requests:,} (no rewrite passes the filter)")
    again = sum(one.requests for one in estimates if one.option == "--judge" and "://" in one.spec)
    if again:
        yield (f"a judge's reply without a score is asked for a second time: up to {again:,} more, not "
               "counted here")
    yield f"{'':<12}{'requests':>12}{'prompt':>16}{'written':>16}{'at most':>16}{'cost':>12}"
    for one in estimates:
        most = "-" if one.most_tokens is None else f"{one.most_tokens:,}"
        cost = "-" if one.cost is None else f"{one.cost:,.2f}"
        yield (f"{one.option:<12}{one.requests:>12,}{one.prompt_tokens:>16,}"
               f"{one.likely_tokens:>16,}{most:>16}{cost:>12}  {one.spec}")
    costs = [one.cost for one in estimates if one.cost is not None]
    if costs:
        yield f"cost of all with a price, as written: at most {sum(costs):,.2f}"
    yield (f"a token is taken to be {CHARACTERS_A_TOKEN:g} characters, a rewrite or fusion as long as the "
           "gold answer; what journal.jsonl holds already is not asked for again")
