"""Any OpenAI-compatible server (vLLM, SGLang, `transformers serve`, a provider) as an engine.

One model on one or more endpoints: `endpoint` sends requests and retries them, `connection` knows how a
server is reached, `replies` what it said, `flow` keeps many requests under way.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

from raft_fast.data.texts import Message
from raft_fast.engines.base import Calls, Price, Reply, Sampling, stable_seed, valid
from raft_fast.engines.connection import KEY_VARIABLE
from raft_fast.engines.endpoint import Endpoint, Pool
from raft_fast.engines.flow import Ask, Call, in_background
from raft_fast.engines.replies import Fault, complaint, fault_of, read_reply, refusal
from raft_fast.engines.score import SCORING, SECOND_SCORING, as_score, second_attempt
from raft_fast.run.errors import UserError, require
from raft_fast.run.option import refuse_in_urls
from raft_fast.run.options import EngineOptions

SEED_BITS = 31  # servers take a signed 32-bit seed
# Conversations of one call that wait in line: first come, first served, so that several threads' calls end
# one after the other, and the server is busy with the next one's while a thread works on its replies.
READ_AHEAD = 1024


class OpenAIEngine:
    """A model on servers; see `engines.base.Engine` for the protocol.

    Its identity is the model's name, and a hash of `extra_body`: the same model at another address, or at one
    more, goes on where it was.
    """

    def __init__(self, pool: Pool, options: EngineOptions) -> None:
        self.pool, self.model, self.extra = pool, pool.model, options.extra_body
        self._calls: Calls[Call] = Calls()
        self.price = Price(*options.prices) if options.prices else None
        self.identity = pool.model
        if self.extra:  # hashed: identities go into files that are passed on, and a body may hold anything
            told = json.dumps(self.extra, sort_keys=True, ensure_ascii=False)
            self.identity += f" extra_body {hashlib.sha256(told.encode()).hexdigest()[:12]}"

    @classmethod
    def connect(cls, spec: str, options: EngineOptions | None = None) -> "OpenAIEngine":
        """The model that `MODEL@URL`, `URL` or `MODEL@URL+URL+...` names; without a name the first that the
        server lists.

        A URL without a path gets /v1. Its key is in OPENAI_API_KEY, or in the variable that the URL's
        fragment names: `MODEL@https://host/v1#OTHER_KEY`. A name that no list has may be an alias: one
        request checks. Raises UserError if no endpoint can be reached, or one refuses the key or serves no
        model, or not this.
        """
        require("openai", "quickstart")
        model, addresses = parse_spec(spec)
        options = (options or EngineOptions()).of(spec, model or "")
        endpoints = [Endpoint(url, variable, options) for url, variable in addresses]
        served = [_list_models(endpoint, len(endpoints) > 1) for endpoint in endpoints]
        if all(names is None for names in served):
            _list_models(endpoints[0])  # raises: says why
        name = model or next((names[0] for names in served if names), None)
        if name is None:
            raise UserError(f"{endpoints[0].address}: serves no model; name one as "
                            f"MODEL@{endpoints[0].address}")
        offered = list(dict.fromkeys(one for names in served for one in names or ()))
        engine = cls(Pool(endpoints, options.max_retries, name, offered), options)
        if offered and name not in offered:
            list(engine.generate([[Message(role="user", content="Hello")]], Sampling(max_new_tokens=1)))
        return engine

    def generate(
        self, conversations: Iterable[list[Message]], sampling: Sampling
    ) -> Iterator[tuple[int, Reply]]:
        """A request's seed comes from (sampling.seed, the conversation) alone.

        Raises UserError if the server is gone or refuses the key or model, after yielding every reply that
        was paid for.
        """
        async def ask(messages: list[Message], stopped: threading.Event) -> Reply | None:
            return await self._reply(messages, sampling, stopped)

        return self._each(conversations, ask)

    def score(self, conversations: Iterable[list[Message]]) -> Iterator[tuple[int, Reply]]:
        """Read the score from the reply's text; one second chance with another seed."""
        return self._each(conversations, self._score)

    def interrupt(self, how: KeyboardInterrupt) -> None:
        """See `Engine`: takes effect at once, however long the callers' replies take."""
        self._calls.end(how)

    def under_way(self) -> str:
        """See `Engine`."""
        return self.pool.under_way()

    def _each(self, conversations: Iterable[list[Message]], ask: Ask) -> Iterator[tuple[int, Reply]]:
        return self._calls.begin(Call(ask)).replies(
            conversations, READ_AHEAD + self.pool.size, self.pool.patience)

    async def _reply(
        self, messages: list[Message], sampling: Sampling, stopped: threading.Event
    ) -> Reply | None:
        """One reply without its thinking, or with the error of this request; None if it was not sent."""
        import openai

        body = {"model": self.model, "messages": messages, "temperature": sampling.temperature,
                "max_tokens": sampling.max_new_tokens,
                "seed": stable_seed(sampling.seed, messages) % (1 << SEED_BITS)} | self.extra
        longest = body.get("max_completion_tokens") or body["max_tokens"]
        try:
            answer = await self.pool.post(
                {key: value for key, value in body.items() if value is not None}, stopped)
        except (openai.OpenAIError, TimeoutError, ValueError) as error:
            return Reply("", error=valid(complaint(error)))
        return None if answer is None else replace(read_reply(answer[0], longest), seconds=answer[1])

    async def _score(self, messages: list[Message], stopped: threading.Event) -> Reply | None:
        first = await self._reply(messages, SCORING, stopped)
        if first is None or first.error is not None:  # what the server refused has no second chance
            return first
        if (read := as_score(first)).error is None:
            return read
        second = await self._reply(messages, SECOND_SCORING, stopped)
        return None if second is None else second_attempt(first, second)


def parse_spec(spec: str) -> tuple[str | None, list[tuple[str, str]]]:
    """(model or None, addresses) of `MODEL@URL+URL` or `URL`, each a URL and the environment variable of its
    key. Raises UserError for anything else."""
    refuse_in_urls("MODEL@URL", spec)
    match = re.fullmatch(r"(?:(?P<model>.+?)@)?(?P<urls>(?i:https?)://\S+)", spec)
    urls = re.split(r"\+(?=(?i:https?)://)", match["urls"]) if match else []
    if match is None or not all(urlsplit(url).hostname for url in urls):  # `refuse_in_urls` can read them
        raise UserError(f"{spec}: must be MODEL@URL, MODEL@URL+URL or URL, as in "
                        "Qwen/Qwen3-32B@http://localhost:8000/v1")
    return match["model"], [_address(url) for url in urls]


def _address(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    plain = urlunsplit(parts._replace(path=parts.path.rstrip("/") or "/v1", fragment=""))
    return plain, parts.fragment or KEY_VARIABLE


def _list_models(endpoint: Endpoint, may_be_down: bool = False) -> list[str] | None:
    """The endpoint's models; empty if it keeps no list, None if it is down and `may_be_down`."""
    import openai

    try:
        return in_background(endpoint.models())
    except (openai.OpenAIError, TimeoutError) as error:
        status = getattr(error, "status_code", None)
        if status == 404 or (status is not None and fault_of(error) is not Fault.FOR_GOOD):
            return []  # some servers have no list, or fail to make one: requests will tell
        if may_be_down and status is None:
            return None
        raise refusal(endpoint.address, endpoint.variable, error) from error
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{endpoint.address}: does not answer like an OpenAI-compatible server; "
                        "give the address that ends before /chat/completions") from error
