"""Any OpenAI-compatible server (vLLM, SGLang, `transformers serve`, a provider) as an engine."""

import asyncio
import contextvars
import functools
import hashlib
import ipaddress
import json
import math
import os
import queue
import re
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from ssl import create_default_context
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import openai

from raft_fast.data.texts import Message
from raft_fast.engines import Conversations, Replies, Reply, Sampling, stable_seed
from raft_fast.engines.replies import complaint, lost, read_reply, refusal, stops_run, understand
from raft_fast.engines.score import SCORING, SECOND_SCORING, as_score, second_attempt
from raft_fast.run.errors import UserError, first_line, key_variables
from raft_fast.run.option import refuse_in_urls
from raft_fast.run.options import EngineOptions

KEY_VARIABLE = "OPENAI_API_KEY"
CONNECT_SECONDS = 10.0  # to reach a server
# of the request under way: set once nothing more may be sent; None for the list of models
request_stop: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("stopped", default=None)
SEED_BITS = 31  # servers take a signed 32-bit seed
LIST_SECONDS = 30.0  # for a server's list of models
DRAIN_SECONDS = 20.0  # for replies in flight at a stop: schedulers kill 30 seconds after SIGTERM

Ask = Callable[[list[Message], threading.Event], Coroutine[Any, Any, Reply]]
"""Answers one conversation. Raises NotSent if the event was set before the request was sent."""


class Call:
    """One call of an engine: whether it is over, and a queue of the requests that are done."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.done: queue.SimpleQueue[tuple[int, Future[Reply]] | None] = queue.SimpleQueue()

    def answered(self, index: int, one: "Future[Reply]") -> None:
        self.done.put((index, one))

    def end(self) -> None:
        """As if a KeyboardInterrupt were thrown into its replies, from another thread."""
        self.done.put(None)  # before any request that is not sent because of it
        self.stopped.set()  # nothing more is sent, even before the waiting thread sees it


class OpenAIEngine:
    """A model on a server; see `Engine` for the protocol.

    Its identity is the model's name, and a hash of `extra_body`: the same model at another address goes on
    where it was. Requests wait in line, first come, first served: calls of several threads end one after the
    other, and the server is busy with the next one's while a thread works on its replies."""

    def __init__(self, spec: str, options: EngineOptions) -> None:
        """The model that `MODEL@URL` names, or the first that the server at `URL` lists. A URL without a path
        gets /v1. Its key is in OPENAI_API_KEY, or in the variable that its fragment names:
        `MODEL@https://host/v1#OTHER_KEY`.

        Raises UserError if the server cannot be reached, refuses the key, or does not serve the model."""
        model, url, self.variable = parse_spec(spec)
        proxy = proxy_for(url)
        self.address = url + (f" (through the proxy in {proxy[1]})" if proxy else "")
        self._client, self.extra = client_for(url, self.variable, proxy, options), options.extra_body
        self._slots, self._answered_at = asyncio.Semaphore(options.requests_in_flight), 0.0
        self._calls: weakref.WeakSet[Call] = weakref.WeakSet()  # those that are not over: nobody holds others
        self._lock = threading.Lock()
        offered = asyncio.run_coroutine_threadsafe(self._models(), background_loop()).result()
        self.model = model or next(iter(offered), "")
        if not self.model:
            raise UserError(f"{self.address}: serves no model; name one as MODEL@{self.address}")
        self.identity = self.model
        if self.extra:  # hashed: identities go into files that are passed on, and a body may hold anything
            told = json.dumps(self.extra, sort_keys=True, ensure_ascii=False)
            self.identity += f" extra_body {hashlib.sha256(told.encode()).hexdigest()[:12]}"
        if offered and self.model not in offered:  # may be served all the same: a short question tells
            next(iter(self.generate([[Message(role="user", content="1")]], Sampling(1))), None)

    def generate(self, conversations: Conversations, sampling: Sampling) -> Replies:
        """A request's seed comes from (sampling.seed, the conversation) alone. Raises UserError if the server
        is gone or refuses the key or model, after yielding every reply that was paid for."""
        return self._each(conversations, functools.partial(self._reply, sampling))

    def score(self, conversations: Conversations) -> Replies:
        """Read the score from the reply's text; one second chance with another seed."""
        return self._each(conversations, self._score)

    def interrupt(self) -> None:
        """See `Engine`: takes effect at once, however long the callers' replies take."""
        with self._lock:
            for call in self._calls:
                call.end()

    def _each(self, conversations: Conversations, ask: Ask) -> Replies:
        call = Call()
        with self._lock:
            self._calls.add(call)
        return self._replies(call, conversations, ask)

    def _replies(self, call: Call, conversations: Conversations, ask: Ask) -> Replies:
        """(index, reply) as replies come.

        If a request raises or the call is ended, nothing more is sent; replies in flight are yielded, for
        DRAIN_SECONDS at most, and then it is raised. A second Ctrl-C is raised at once."""
        asked: list[Future[Reply]] = []
        raised, end, waits = None, math.inf, False
        try:
            for index, messages in enumerate(conversations):
                asked.append(asyncio.run_coroutine_threadsafe(ask(messages, call.stopped), background_loop()))
                asked[-1].add_done_callback(functools.partial(call.answered, index))
            left = len(asked)
            while left:
                try:
                    waits = True
                    done = call.done.get(timeout=None if raised is None else max(0.0, end - time.monotonic()))
                    waits = False
                    if done is None:
                        raise KeyboardInterrupt
                    left -= 1
                    yield done[0], done[1].result()
                except NotSent:
                    pass
                except queue.Empty:
                    break
                except (Exception, KeyboardInterrupt) as error:
                    if waits and raised is not None:  # Ctrl-C again
                        raise
                    call.stopped.set()
                    raised = raised or error  # the first failure is the one that is raised
                    end = min(end, time.monotonic() + DRAIN_SECONDS)
            if raised is not None:
                raise raised
        finally:
            call.stopped.set()
            for one in asked:
                one.cancel()

    async def _reply(self, sampling: Sampling, messages: list[Message], stopped: threading.Event) -> Reply:
        """One reply without its thinking, or with the error of this request."""
        body = {"model": self.model, "messages": messages, "temperature": sampling.temperature,
                "max_tokens": sampling.max_new_tokens,
                "seed": stable_seed(sampling.seed, messages) % (1 << SEED_BITS)} | self.extra
        body = {key: value for key, value in body.items() if value is not None}
        longest = body.get("max_completion_tokens") or body.get("max_tokens")
        try:
            return read_reply(await self._post(body, stopped), longest)
        except NotSent:
            raise
        except openai.OpenAIError as error:
            return Reply("", error=complaint(error))

    async def _score(self, messages: list[Message], stopped: threading.Event) -> Reply:
        first = await self._reply(SCORING, messages, stopped)
        if first.error is not None:  # what the server refused has no second chance
            return first
        if (read := as_score(first)).error is None:
            return read
        return second_attempt(first, await self._reply(SECOND_SCORING, messages, stopped))

    async def _models(self) -> list[str]:
        """The models that the server lists; none if it gives no list (requests will tell). Raises UserError
        if it cannot be reached or refuses the key."""
        try:
            async with asyncio.timeout(LIST_SECONDS):
                listed = await self._client.with_options(max_retries=0).get(
                    "/models", cast_to=openai.HttpxBinaryResponseContent)
            return [str(one["id"]) for one in listed.response.extensions["answer"]["data"] or ()]
        except openai.APIStatusError as error:
            if error.status_code != 404 and stops_run(error):
                raise refusal(self, error) from error
        except (openai.OpenAIError, TimeoutError) as error:
            raise refusal(self, error) from error
        except (LookupError, TypeError):
            pass
        return []

    async def _post(self, body: Mapping[str, Any], stopped: threading.Event) -> Any:
        """The server's JSON, after as many attempts as needed. Raises NotSent if `stopped` is set before an
        attempt, else the last attempt's error, or UserError and sets `stopped` if every request would fail:
        the server is gone, or refuses all."""
        async with self._slots:
            began = time.monotonic()
            request_stop.set(stopped)
            try:
                sent = await self._client.post("/chat/completions", body=body,
                                               cast_to=openai.HttpxBinaryResponseContent)
            except openai.OpenAIError as error:
                if stops_run(error) or (lost(error) and self._answered_at < began):
                    stopped.set()  # before the thread that waits for replies sees the failure
                    raise refusal(self, error) from error
                raise
        self._answered_at = time.monotonic()
        return sent.response.extensions["answer"]


@functools.cache
def background_loop() -> asyncio.AbstractEventLoop:
    """The event loop in which all requests of this process wait. It dies with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="servers", daemon=True).start()
    return loop


def parse_spec(spec: str) -> tuple[str | None, str, str]:
    """(model or None, URL, variable of its key) of `MODEL@URL` or `URL`. Raises UserError for others."""
    refuse_in_urls("MODEL@URL", spec)
    match = re.fullmatch(r"(?:(.+?)@)?((?i:https?)://\S+)", spec)
    url = urlsplit(match[2] if match else "")
    if match is None or not url.hostname:  # `refuse_in_urls` can read it
        raise UserError(f"{spec}: must be MODEL@URL or URL, as in Qwen/Qwen3-32B@http://localhost:8000/v1")
    if re.search(r"\+https?://", match[2], re.IGNORECASE):
        raise UserError(f"{spec}: names several servers; name one, and let a router, or vLLM's "
                        "--data-parallel-size, spread requests over replicas")
    return (match[1], urlunsplit(url._replace(path=url.path.rstrip("/") or "/v1", fragment="")),
            url.fragment or KEY_VARIABLE)


class NotSent(openai.OpenAIError):
    """Nothing more may be sent."""


def client_for(url: str, variable: str, proxy: tuple[str, str] | None, options: EngineOptions) -> Any:
    """An openai client whose attempts are bounded in time, and whose responses pass `understand`. Redirects
    are errors, so rows go nowhere else. Raises UserError for a key or proxy that cannot be used."""

    class Client(openai.DefaultAsyncHttpxClient):  # type: ignore[misc, valid-type]
        async def send(self, request: Any, **how: Any) -> Any:
            if (stopped := request_stop.get()) and stopped.is_set():
                raise NotSent
            try:
                async with asyncio.timeout(options.request_timeout):  # the client's own is per read
                    response = await super().send(request, **how)
            except TimeoutError:  # not tried again: it would take as long
                raise openai.APITimeoutError(request=request) from None
            understand(response)
            return response

    key = key_in(variable)
    try:
        http_client = Client(  # not trust_env: what the environment says is in `proxy`
            trust_env=False, follow_redirects=False, verify=create_default_context(),
            proxy=proxy[0] if proxy else None,
            limits=type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=options.requests_in_flight))
    except Exception as error:  # the client raises several kinds, and one of its own
        if proxy is None:
            raise
        raise UserError(f"{proxy[1]}: names a proxy that cannot be used ({first_line(error)}): correct "
                        "or unset the variable, or name the server's host in NO_PROXY") from error
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=options.max_retries,
                              timeout=openai.Timeout(None, connect=CONNECT_SECONDS),
                              http_client=http_client)


def proxy_for(url: str) -> tuple[str, str] | None:
    """The environment's proxy for a server, and the variable that names it; None if it names none or exempts
    the server, and for servers on this machine."""
    parts, proxies = urlsplit(url), getproxies()
    scheme = parts.scheme if proxies.get(parts.scheme) else "all"
    value = proxies.get(scheme)
    if not value or _is_loopback(parts.hostname or "") or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    named = (name for name in os.environ if name.lower() == f"{scheme}_proxy")
    variable = max(named, default="the system's settings")  # of macOS and Windows; lower case wins
    return (value.strip() if "://" in value else f"http://{value.strip()}", variable)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f".{host}".endswith(".localhost")
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def key_in(variable: str) -> str:
    """The key in an environment variable, or "none". Errors that quote it mask it from here on. Raises
    UserError for a key that no HTTP header can carry."""
    key_variables.add(variable)
    key = os.environ.get(variable, "").strip()  # a file's line end comes along easily
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"{variable}: the key in it holds a character that cannot be sent (a line break, a "
                        "control character or one beyond ASCII): set it again")
    return key or "none"
