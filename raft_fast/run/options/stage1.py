"""Stage 1 (Eqs. 1-4): engines, refinement, and the card of the refined rows."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from raft_fast.run.errors import UserError
from raft_fast.run.options.option import Group, Part, check, option
from raft_fast.run.options.secrets import refuse_in_body, refuse_in_urls

PRICE = re.compile(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")


@dataclass
class EngineOptions(Group):
    """Engines: servers and in-process generation of stage 1"""

    requests_in_flight: int = option(64, least=1)
    """Concurrent requests to each endpoint of a server."""
    requests_per_minute: float = option(0, least=0)
    """Rate limit of each endpoint; 0: none."""
    tokens_per_minute: float = option(0, least=0)
    """Rate limit of each endpoint, in tokens of prompts and replies; 0: none."""
    request_timeout: float = option(600, above=0)
    """Seconds that one attempt may take from connecting to the last byte."""
    connect_timeout: float = option(10, above=0)
    """Seconds to reach a server."""
    max_retries: int = option(8, least=0)
    """Retries of a request after a transient failure, with growing pauses."""
    price: str | None = None
    """Price of a million tokens, as PROMPT/COMPLETION: 0.15/0.60. Without it costs are null."""
    extra_body: dict[str, Any] = option(factory=dict, pins="refinement")
    """Further keys of every request, as JSON; null removes a key. In-process engines take
    chat_template_kwargs from it, as in {"chat_template_kwargs": {"enable_thinking": false}}."""
    generation: Literal["batch", "continuous"] = option("batch", pins="refinement")
    """In-process generation. continuous: transformers' continuous batching, for a GPU; draws then do not
    repeat with the seed."""
    generation_tokens: int = option(32768, least=1)
    """Tokens of prompts and replies held at once by in-process generation, padding included."""
    engine_overrides: dict[str, dict[str, Any]] = option(factory=dict, pins="refinement")
    """Values of these options for single engines, as JSON by the name that --fuser and the like
    give: {"MODEL": {"requests_per_minute": 60, "price": "2/8"}}."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.price is None or PRICE.fullmatch(self.price) is not None, "--price", self.price,
              "PROMPT/COMPLETION, as in 0.15/0.60")
        refuse_in_body("--extra_body", self.extra_body)
        known = {one.name for one in dataclasses.fields(self)} - {"engine_overrides"}
        for name, values in self.engine_overrides.items():
            refuse_in_urls("--engine_overrides", name)
            refuse_in_body("--engine_overrides", values)
            check(isinstance(values, dict) and set(values) <= known
                  and isinstance(values.get("extra_body", {}), dict), "--engine_overrides",
                  f"{name}: {', '.join(map(str, values)) if isinstance(values, dict) else 'no object'}",
                  f"options of engines by name, of {', '.join(sorted(known))}, and extra_body an object")
            self.of(name)

    def of(self, *names: str) -> "EngineOptions":
        """The options of the engine that goes by one of `names`. Raises UserError for a bad value."""
        name = next((name for name in names if name in self.engine_overrides), "")
        try:
            return dataclasses.replace(self, engine_overrides={}, **self.engine_overrides.get(name, {}))
        except (TypeError, UserError) as error:
            raise UserError(f"--engine_overrides {name}: {error}") from error

    @property
    def chat_template_kwargs(self) -> dict[str, Any]:
        """Arguments in `extra_body` of a chat template that is rendered in this process."""
        return self.extra_body.get("chat_template_kwargs") or {}

    @property
    def prices(self) -> tuple[float, float] | None:
        """Price of a million tokens of prompts and of completions."""
        match = PRICE.fullmatch(self.price or "")
        return (float(match[1]), float(match[2])) if match else None


@dataclass
class RefineOptions(Group):
    """Stage 1: refinement (Eqs. 1-4)"""

    pins: ClassVar[Part] = "refinement"

    rewriter: str = option("self", engines=True)
    """Engine that rewrites: self (the model), a folder or hub name, or MODEL@URL of an OpenAI-compatible
    server (URL alone takes the first model it serves; MODEL@URL+URL+... are replicas; the key is read
    from OPENAI_API_KEY, or from NAME where the URL ends in #NAME)."""
    fuser: str = option("self", engines=True)
    """Engine that merges gold and rewrite into the fused answer: as --rewriter."""
    judge: str = option("self", listed=True, engines=True)
    """Engines that score fusions, separated by commas: as --rewriter."""
    prompts: str | None = None
    """A folder with your own rewrite.txt, fuse.txt or judge.txt; missing ones are the shipped ones."""
    tau: float = option(0.8, least=-1, most=1)
    """Keep a rewrite whose cosine similarity to the gold answer is at least this (Eq. 3)."""
    fused_tau: float = option(0.0, least=-1, most=1)
    """As tau, for fused answers; below it the row keeps what it had. 0: judges alone decide."""
    fused_least: float = option(0.0, least=0, most=1)
    """Mean score below which a fusion is not used and the row keeps its rewrite. 0: as in the paper, the
    best one is used however low."""
    skip_checks: str = option("", listed=True)
    """Checks of rewrites and fusions to leave out, separated by commas: cut_off, copy, length, refusal,
    loops, leak, marks, language, numbers, negation, bounds, duty, retrieval
    (docs/methods/raft.md), or your own."""
    check_patterns: str | None = None
    """A TOML file with your own checks: regular expressions (product codes, terms, legal references) whose
    matches in gold answer and rewrite must agree. A shipped one by its name: legal_references."""
    checks: str = option("", listed=True)
    """Your own checks, separated by commas, as module:function, which is called with question, gold answer
    and answer and returns what is wrong, or None."""
    fusion_rounds: int = option(3, least=0)
    """Fusions drawn and judged for a row at most; the best mean score wins. 0: no fusion."""
    judge_stop: float = option(0.8, least=-1, most=1)
    """No further round for a row once the mean score reaches this."""
    quorum: int = option(0, least=0)
    """Judges that must score a fusion for it to be used. 0: more than half of them."""
    rewrite_max_new_tokens: int = option(256, least=1)
    """Longest rewrite or fusion, in tokens; truncated ones are not used."""
    rewrite_temperature: float = option(0.7, least=0)
    """Sampling temperature of rewrites and fusions; 0 is greedy."""
    supervision_gap: bool = True
    """Record how likely the rewriter finds gold, rewrite and fused answer: one forward pass an answer.
    Requires a rewriter in this process."""
    refine_batch_size: int = option(32, pins="nothing", least=1)
    """Conversations generated at once in-process; servers have --requests_in_flight."""


@dataclass
class RefineRunOptions(Group):
    """How stage 1 is run"""

    retry_failed: bool = False
    """Repeat requests that failed in a finished run."""
    overwrite: bool = False
    """Replace finished answers in OUTPUT_DIR that were made from different rows or options; without it they
    are kept and the command fails."""
    shard: str | None = None
    """i/n: refine every n-th row from the i-th (from 1) on into OUTPUT_DIR/shards; the last shard to
    finish joins all into the files of a run without shards."""
    dry_run: bool = False
    """Count rows, requests and tokens, show a prompt of every kind; ask no engine, write nothing."""
    merge: bool = False
    """Only join the shards in OUTPUT_DIR, as when they were refined on different machines."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard is not None:
            match = re.fullmatch(r"(\d+)/(\d+)", self.shard)
            check(match is not None and 1 <= int(match[1]) <= int(match[2]), "--shard", self.shard,
                  "i/n with i from 1 to n, as in 2/8")


@dataclass
class ShowOptions(Group):
    """What stage 1 shows"""

    explain: str | None = None
    """A row_id: print the decisions about this row in --output_dir. Nothing is refined, --data is not
    needed."""


@dataclass
class CardOptions(Group):
    """Dataset card"""

    license: str = "unknown"
    """License of the rows, for the dataset card: a name that the hub knows, such as cc-by-4.0."""
    language: str | None = option(None, listed=True)
    """Languages of the rows, for the dataset card: codes separated by commas, such as en,sv."""
