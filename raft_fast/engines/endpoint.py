"""Requests to the addresses of one model: the least loaded is asked, one in trouble rests."""

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from raft_fast.engines.answers import MANY, read_body
from raft_fast.engines.connection import check_certificates, http_client, key_in, proxy_for, shown
from raft_fast.engines.failures import (
    OutOfServiceError,
    RefusedError,
    asked_to_wait,
    is_for_good,
    is_lost,
    is_overload,
    is_timeout,
    is_worth_another,
)
from raft_fast.engines.waiting import Limit, backoff, pause
from raft_fast.run.options import EngineOptions

CHARACTERS_A_TOKEN = 4  # for a request's size before the server has counted it
TIMEOUT_RETRIES = 1  # a request that takes too long usually does so again
LIST_SECONDS = 30.0  # for the list of models, once connected
POLL = 0.05  # how often a request looks for an endpoint while all of them rest


@dataclass(frozen=True)
class Answer:
    """The server's JSON as it came, and the seconds it took."""

    body: Any
    seconds: float


class Endpoint:
    """One address, the key for it, its rate limits and how it has been doing."""

    def __init__(self, url: str, variable: str, options: EngineOptions) -> None:
        """`variable` is the environment variable that holds the key."""
        import openai

        proxy = proxy_for(url)
        through = f" (through the proxy in {proxy.variable})" if proxy else ""
        self.address, self.variable, self.options = public(url) + through, shown(variable), options
        self.answered_at = self._rests_until = 0.0
        self.failures, self._probing = 0, False
        self.sent: dict[Any, float] = {}  # client -> since when its request is on its way
        self._requests = Limit(options.requests_per_minute)
        self._tokens = Limit(options.tokens_per_minute)
        if url.startswith("https:"):
            check_certificates()
        key = key_in(variable)
        timeout = openai.Timeout(options.request_timeout, connect=options.connect_timeout)
        # a client for each request in flight: a shared pool looks through all its connections
        # every time, which at 256 of them adds more than half to a request's processor time
        self._idle = [openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=timeout,
                                         http_client=http_client(proxy))
                      for _ in range(options.requests_in_flight)]

    @property
    def in_flight(self) -> int:
        return self.options.requests_in_flight - len(self._idle)

    @property
    def takes_requests(self) -> bool:
        """It has room and is well; after a rest one request at a time tries whether it is."""
        rests = time.monotonic() < self._rests_until or (self.failures > 0 and self._probing)
        return bool(self._idle) and not rests

    @property
    def rests_for(self) -> float:
        """Seconds that it still takes no requests."""
        return max(0.0, self._rests_until - time.monotonic())

    async def models(self) -> list[str]:
        """The names of the models that the server lists. Raises what the client raises."""
        import openai

        async with asyncio.timeout(self.options.connect_timeout + LIST_SECONDS):
            listed = await self._idle[-1].get("/models", cast_to=openai.HttpxBinaryResponseContent)
            return [str(one["id"]) for one in read_body(listed.response)["data"] or ()]

    async def post(self, body: Mapping[str, Any], stopped: threading.Event) -> Answer | None:
        """One attempt within `request_timeout` seconds; None where `stopped` was set before it was sent.
        Raises what the client and `read_body` raise."""
        import openai

        client, expected = self._idle.pop(), expected_tokens(body)
        probes = self.failures > 0
        self._probing |= probes
        used, start = 0.0, time.monotonic()
        try:
            await self._requests.take(1, stopped)
            await self._tokens.take(expected, stopped)
            if stopped.is_set():
                return None
            start = self.sent[client] = time.monotonic()
            async with asyncio.timeout(self.options.request_timeout):  # the client's own is per read
                sent = await client.post("/chat/completions", body=body,
                                         cast_to=openai.HttpxBinaryResponseContent)
            answer = read_body(sent.response)
            self.failures, self.answered_at = 0, time.monotonic()
            used = used_tokens(answer, expected)
            return Answer(answer, self.answered_at - start)
        except Exception as error:
            if is_overload(error):
                self._rest(asked_to_wait(error), start)
            raise
        finally:
            self._tokens.correct(expected, used)
            self.sent.pop(client, None)
            self._idle.append(client)
            self._probing &= not probes

    def _rest(self, asked: float | None, sent: float) -> None:
        """Set aside for as long as the server asks, else longer with every failure in a row. What was
        sent before its last rest ended says nothing new."""
        now = time.monotonic()
        if sent >= self._rests_until:
            self.failures += 1
            self._rests_until = now + backoff(self.failures - 1)
        if asked is not None:
            self._rests_until = max(self._rests_until, now + asked)


class Pool:
    """All endpoints of a model; `size` requests are in flight at most."""

    def __init__(self, endpoints: Sequence[Endpoint], max_retries: int) -> None:
        self.endpoints, self.max_retries = endpoints, max_retries
        self.size = sum(one.options.requests_in_flight for one in endpoints)
        self.patience = max(one.options.request_timeout for one in endpoints)
        self._slots = asyncio.Semaphore(self.size)

    async def post(self, body: Mapping[str, Any], stopped: threading.Event) -> Answer | None:
        """The answer to a request, after as many attempts as it takes and `max_retries` allows.

        None where `stopped` was set before it was sent. Raises RefusedError where only this request is
        at fault, OutOfServiceError where the next one would fare no better.
        """
        import openai

        async with self._slots:
            since, attempt, timeouts = time.monotonic(), 0, 0
            while (endpoint := await self._least_loaded(stopped)) is not None:
                try:
                    return await endpoint.post(body, stopped)
                except (openai.OpenAIError, TimeoutError, ValueError) as error:
                    timeouts += is_timeout(error)
                    if is_for_good(error) or self._all_lost(error, attempt, since):
                        raise OutOfServiceError(endpoint.address, endpoint.variable) from error
                    if (attempt == self.max_retries or timeouts > TIMEOUT_RETRIES
                            or not is_worth_another(error)):
                        raise RefusedError from error
                    if not is_overload(error):  # then the endpoint rests, and this request with it
                        await pause(backoff(attempt), stopped)
                attempt += 1
            return None

    def under_way(self) -> str:
        """What its requests wait for, in words. Any thread may ask."""
        now, sent = time.monotonic(), [at for one in self.endpoints for at in list(one.sent.values())]
        told = [f"{len(sent)} in flight, the oldest for {now - min(sent):.0f} s"] if sent else []
        waiting = sum(one.in_flight for one in self.endpoints) - len(sent)
        if waiting > 0:  # another thread counts on meanwhile
            told.append(f"{waiting} wait for the rate limit")
        told += [f"{one.address} rests for {one.rests_for:.0f} s after {one.failures} failures"
                 for one in self.endpoints if one.rests_for >= 1]
        return ", ".join(told)

    async def _least_loaded(self, stopped: threading.Event) -> Endpoint | None:
        """Of the endpoints that take requests the least busy; waits while there is none."""
        while not stopped.is_set():
            ready = [one for one in self.endpoints if one.takes_requests]
            if ready:
                return min(ready, key=lambda one: one.in_flight)
            await asyncio.sleep(POLL)
        return None

    def _all_lost(self, error: Exception, attempt: int, since: float) -> bool:
        """Nobody got an answer for as long as this request tried; or, since many requests take turns at
        trying, every endpoint failed more often in a row than one request does."""
        if not is_lost(error):
            return False
        tried = attempt == self.max_retries and all(one.answered_at < since for one in self.endpoints)
        return tried or all(one.failures > self.max_retries + 1 for one in self.endpoints)


def expected_tokens(body: Mapping[str, Any]) -> float:
    """A guess, for the rate limit, at what a request will use: its words and the longest reply."""
    characters = sum(len(message["content"]) for message in body["messages"])
    return characters / CHARACTERS_A_TOKEN + (body.get("max_tokens") or 0)


def used_tokens(answer: Any, unknown: float) -> float:
    """What the server says that a request used."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    told = usage.get("total_tokens") if isinstance(usage, dict) else None
    return told if isinstance(told, int) and 0 < told < MANY else unknown


def public(url: str) -> str:
    """The address without a user or password, fit for files that are passed on."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
