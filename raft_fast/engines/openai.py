"""Any OpenAI-compatible server (vLLM, SGLang, `transformers serve`, a provider) as an engine."""

import asyncio
import functools
import hashlib
import json
import queue
import re
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from raft_fast.data.texts import Message
from raft_fast.engines import Conversations, Replies, Reply, Sampling, stable_seed
from raft_fast.engines.endpoint import KEY_VARIABLE, NOT_SENT, Endpoint
from raft_fast.engines.replies import complaint, in_trouble, lost, read_reply, refusal, stops_run
from raft_fast.engines.score import SCORING, SECOND_SCORING, as_score, second_attempt
from raft_fast.run.errors import UserError, require
from raft_fast.run.option import refuse_in_urls
from raft_fast.run.options import EngineOptions

SEED_BITS = 31  # servers take a signed 32-bit seed
# Conversations of one call that wait in line: first come, first served, so that several threads' calls end
# one after the other, and the server is busy with the next one's while a thread works on its replies.
READ_AHEAD = 1024
DRAIN_SECONDS = 20.0  # for replies in flight at a stop: schedulers kill 30 seconds after SIGTERM

Ask = Callable[[list[Message], threading.Event], Coroutine[Any, Any, Reply | None]]
"""Answers one conversation; None if the event was set before the request was sent."""


class OpenAIEngine:
    """A model on servers; see `Engine` for the protocol.

    Its identity is the model's name, and a hash of `extra_body`: the same model at another address, or at one
    more, goes on where it was.
    """

    def __init__(self, model: str, endpoints: list[Endpoint], options: EngineOptions) -> None:
        self.model, self.endpoints, self.extra = model, endpoints, options.extra_body
        self.size = len(endpoints) * options.requests_in_flight
        self._slots = asyncio.Semaphore(self.size)
        self._calls: weakref.WeakSet[Call] = weakref.WeakSet()  # those that are not over: nobody holds others
        self._lock = threading.Lock()
        self.identity = model
        if self.extra:  # hashed: identities go into files that are passed on, and a body may hold anything
            told = json.dumps(self.extra, sort_keys=True, ensure_ascii=False)
            self.identity += f" extra_body {hashlib.sha256(told.encode()).hexdigest()[:12]}"

    @classmethod
    def connect(cls, spec: str, options: EngineOptions | None = None) -> "OpenAIEngine":
        """The model that `MODEL@URL`, `URL` or `MODEL@URL+URL+...` names; without a name the first that the
        server lists. A URL without a path gets /v1. Its key is in OPENAI_API_KEY, or in the variable that its
        fragment names: `MODEL@https://host/v1#OTHER_KEY`.

        Raises UserError if no endpoint can be reached, one refuses the key, or the model is not served.
        """
        require("openai", "quickstart")
        model, addresses = parse_spec(spec)
        options = options or EngineOptions()
        endpoints = [Endpoint(url, variable, options) for url, variable in addresses]
        offered = [name for one in endpoints for name in asyncio.run_coroutine_threadsafe(
            one.models(), background_loop()).result()]
        if endpoints[0].down is not None and all(one.down for one in endpoints):
            raise endpoints[0].down
        name = model or next(iter(offered), None)
        if name is None:
            raise UserError(f"{endpoints[0].address}: serves no model; name one as "
                            f"MODEL@{endpoints[0].address}")
        engine = cls(name, endpoints, options)
        if offered and name not in offered:  # may be served all the same: a short question tells
            next(iter(engine.generate([[Message(role="user", content="1")]], Sampling(1))), None)
        return engine

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
        call = Call(ask)
        with self._lock:
            self._calls.add(call)
        return call.replies(conversations, READ_AHEAD + self.size)

    async def _reply(self, sampling: Sampling, messages: list[Message],
                     stopped: threading.Event) -> Reply | None:
        """One reply without its thinking, or with the error of this request; None if it was not sent."""
        import openai

        body = {"model": self.model, "messages": messages, "temperature": sampling.temperature,
                "max_tokens": sampling.max_new_tokens,
                "seed": stable_seed(sampling.seed, messages) % (1 << SEED_BITS)} | self.extra
        body = {key: value for key, value in body.items() if value is not None}
        longest = body.get("max_completion_tokens") or body.get("max_tokens")
        try:
            answer = await self._post(body, stopped)
        except openai.OpenAIError as error:
            return Reply("", error=complaint(error))
        return None if answer is NOT_SENT else read_reply(answer, longest)

    async def _score(self, messages: list[Message], stopped: threading.Event) -> Reply | None:
        first = await self._reply(SCORING, messages, stopped)
        if first is None or first.error is not None:  # what the server refused has no second chance
            return first
        if (read := as_score(first)).error is None:
            return read
        second = await self._reply(SECOND_SCORING, messages, stopped)
        return None if second is None else second_attempt(first, second)

    async def _post(self, body: Mapping[str, Any], stopped: threading.Event) -> Any:
        """As `Endpoint.post`, at the least busy endpoint; if that one is in trouble, at the next. Raises the
        last error if only this request is at fault, UserError if the next would fail too."""
        import openai

        async with self._slots:
            since = time.monotonic()
            waiting = sorted(self.endpoints, key=lambda one: (one.rests_until > since, one.in_flight))
            for endpoint in waiting:
                try:
                    return await endpoint.post(body, stopped)
                except openai.OpenAIError as error:
                    last = endpoint is waiting[-1]
                    gone = last and lost(error) and all(one.answered_at < since for one in waiting)
                    if gone or stops_run(error):
                        stopped.set()  # before the thread that waits for replies sees the failure
                        raise refusal(endpoint, error, self.model) from error
                    if last or not in_trouble(error):
                        raise
        return NOT_SENT


class Call:
    """One call of an engine: its requests, and a queue of those that are done."""

    def __init__(self, ask: Ask) -> None:
        self._ask, self._stopped = ask, threading.Event()
        self._running: set[Future[Reply | None]] = set()
        self._done: queue.SimpleQueue[tuple[int, Future[Reply | None]] | None] = queue.SimpleQueue()

    def end(self) -> None:
        """As if a KeyboardInterrupt were thrown into `replies`, from another thread."""
        self._done.put(None)  # before any request that is not sent because of it
        self._stopped.set()  # nothing more is sent, even before the waiting thread sees it

    def replies(self, conversations: Conversations, ahead: int) -> Replies:
        """(index, reply) as replies come; at most `ahead` conversations are read and not yet answered.

        If a request raises or the call is ended, nothing more is sent; replies in flight are yielded, for
        DRAIN_SECONDS at most, and then it is raised. A second Ctrl-C is raised at once.
        """
        numbered, end, waits = enumerate(conversations), float("inf"), False
        raised: BaseException | None = None
        try:
            while raised is None or self._running:
                try:
                    while raised is None and len(self._running) < ahead and self._done.empty():
                        if (following := next(numbered, None)) is None:
                            break
                        self._start(*following)
                    if not self._running and self._done.empty():
                        return
                    waits = True
                    done = self._done.get(
                        timeout=None if raised is None else max(0.0, end - time.monotonic()))
                    waits = False
                    if done is None:
                        raise KeyboardInterrupt
                    self._running.discard(done[1])
                    if (reply := done[1].result()) is not None:
                        yield done[0], reply
                except queue.Empty:
                    break
                except (Exception, KeyboardInterrupt) as error:
                    if waits and raised is not None:  # Ctrl-C again
                        raise
                    self._stopped.set()
                    raised = raised or error  # the first failure is the one that is raised
                    end = min(end, time.monotonic() + DRAIN_SECONDS)
            if raised is not None:
                raise raised
        finally:
            self._stopped.set()
            for future in self._running:
                future.cancel()

    def _start(self, index: int, messages: list[Message]) -> None:
        future = asyncio.run_coroutine_threadsafe(self._ask(messages, self._stopped), background_loop())
        self._running.add(future)
        future.add_done_callback(lambda finished: self._done.put((index, finished)))


@functools.cache
def background_loop() -> asyncio.AbstractEventLoop:
    """The event loop in which all requests of this process wait. It dies with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="servers", daemon=True).start()
    return loop


def parse_spec(spec: str) -> tuple[str | None, list[tuple[str, str]]]:
    """(model or None, addresses) of `MODEL@URL+URL` or `URL`, each a URL and the environment variable of its
    key. Raises UserError for anything else."""
    refuse_in_urls("MODEL@URL", spec)
    match = re.fullmatch(r"(?:(?P<model>.+?)@)?(?P<urls>(?i:https?)://\S+)", spec)
    urls = [urlsplit(url) for url in re.split(r"\+(?=(?i:https?)://)", match["urls"])] if match else []
    if match is None or not all(url.hostname for url in urls):  # `refuse_in_urls` can read them
        raise UserError(f"{spec}: must be MODEL@URL, MODEL@URL+URL or URL, as in "
                        "Qwen/Qwen3-32B@http://localhost:8000/v1")
    return match["model"], [(urlunsplit(url._replace(path=url.path.rstrip("/") or "/v1", fragment="")),
                             url.fragment or KEY_VARIABLE) for url in urls]
