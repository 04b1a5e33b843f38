"""Engines: who generates, and how hard they are pushed."""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from raft_fast.run.errors import UserError
from raft_fast.run.options.check import check
from raft_fast.run.options.secrets import refuse_in_body, refuse_in_urls

PRICE = re.compile(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")


@dataclass
class EngineOptions:
    """Engines: servers and in-process generation of stage 1"""

    requests_in_flight: int = 64
    """Requests that each endpoint of a server works on at once."""
    requests_per_minute: float = 0
    """Rate limit of each endpoint; 0: none."""
    tokens_per_minute: float = 0
    """Rate limit of each endpoint, in tokens of prompts and replies; 0: none."""
    request_timeout: float = 600
    """Seconds that one attempt may take from connecting to the last byte."""
    connect_timeout: float = 10
    """Seconds to reach a server."""
    max_retries: int = 8
    """Further attempts of a request that failed for a reason that passes, with growing pauses."""
    price: str | None = None
    """What a million tokens cost, as PROMPT/COMPLETION: 0.15/0.60. Unknown: costs are null."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """What else to send with every request, as JSON; null leaves a key out. In-process engines take
    chat_template_kwargs from it, as in {"chat_template_kwargs": {"enable_thinking": false}}."""
    generation: Literal["batch", "continuous"] = "batch"
    """In-process generation. continuous: transformers' continuous batching, for a GPU; seeds then
    repeat nothing."""
    generation_tokens: int = 32768
    """Tokens of prompts and replies held at once by in-process generation, padding included."""
    engine_overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Other values of these options for some engines, as JSON by the name that --fuser and the like
    give: {"MODEL": {"requests_per_minute": 60, "price": "2/8"}}."""

    def __post_init__(self) -> None:
        for name in ("requests_in_flight", "generation_tokens"):
            check(getattr(self, name) >= 1, f"--{name}", getattr(self, name), "at least 1")
        for name in ("requests_per_minute", "tokens_per_minute", "max_retries"):
            check(getattr(self, name) >= 0, f"--{name}", getattr(self, name), "at least 0")
        for name in ("request_timeout", "connect_timeout"):
            check(getattr(self, name) > 0, f"--{name}", getattr(self, name), "above 0")
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
        own = next((self.engine_overrides[name] for name in names if name in self.engine_overrides), {})
        try:
            return dataclasses.replace(self, engine_overrides={}, **own)
        except TypeError as error:
            raise UserError(f"--engine_overrides {', '.join(own)}: {error}") from error

    @property
    def chat_template_kwargs(self) -> dict[str, Any]:
        """What `extra_body` has for a chat template that is rendered in this process."""
        return self.extra_body.get("chat_template_kwargs") or {}

    @property
    def prices(self) -> tuple[float, float] | None:
        """Price of a million tokens of prompts and of completions."""
        match = PRICE.fullmatch(self.price or "")
        return (float(match[1]), float(match[2])) if match else None
