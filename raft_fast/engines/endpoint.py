"""Requests to the endpoints of one model: rate limits, retries, and rests for an endpoint in trouble."""

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from raft_fast.engines.connection import client_for, proxy_for, shown
from raft_fast.engines.replies import Fault, asked_to_wait, count, fault_of, read_body, refusal
from raft_fast.run.options import EngineOptions

CHARACTERS_A_TOKEN = 4  # a guess at a request's size before the server has counted it
TIMEOUT_RETRIES = 1  # a request that takes too long usually does so again
LIST_SECONDS = 30.0  # for the list of models, once connected
# Requests in flight to a client: its pool looks through all connections for every request, which at 256
# nearly doubles the processor time of a request (2.5 ms instead of 1.35; at 32: 1.6 instead of 1.5).
CLIENT_REQUESTS = 32
POLL = 0.05  # seconds between looks for an endpoint while all of them rest
FIRST_DELAY, LONGEST_DELAY = 0.5, 60.0  # seconds; doubles with every attempt
LIMIT_POLL = 1.0  # seconds between looks at a limit: finished requests may have given back


def backoff(attempt: int) -> float:
    """Seconds before attempt number `attempt` + 1: exponential, with jitter over the whole range, so that
    requests that failed together do not come back together."""
    return random.uniform(0, min(LONGEST_DELAY, FIRST_DELAY * 2**attempt))


async def pause(seconds: float, stopped: threading.Event) -> None:
    """Sleep, or until `stopped` is set."""
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0 and not stopped.is_set():
        await asyncio.sleep(min(rest, LIMIT_POLL))


class Limit:
    """At most `per_minute` units a minute, evenly spaced; 0 is no limit. Lives in one event loop."""

    def __init__(self, per_minute: float) -> None:
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._free_at = 0.0
        self._line = asyncio.Lock()  # first come, first served

    async def take(self, units: float, stopped: threading.Event) -> None:
        """Wait for the units taken before, or until `stopped` is set; then take these."""
        if not self._seconds_each:
            return
        async with self._line:
            while (wait := self._free_at - time.monotonic()) > 0 and not stopped.is_set():
                await asyncio.sleep(min(wait, LIMIT_POLL))
            self._free_at = max(self._free_at, time.monotonic()) + units * self._seconds_each

    def correct(self, expected: float, used: float) -> None:
        """A request used more or less than was expected of it."""
        self._free_at += (used - expected) * self._seconds_each


class Endpoint:
    """One address: its client, its rate limits, its requests in flight and its failures in a row."""

    def __init__(self, url: str, variable: str, options: EngineOptions) -> None:
        """`variable` is the environment variable that holds the key. Raises UserError as `client_for`."""
        proxy = proxy_for(url)
        through = f" (through the proxy in {proxy[1]})" if proxy else ""
        self.address, self.variable, self.options = public(url) + through, shown(variable), options
        self.in_flight, self.failures, self.answered_at = 0, 0, 0.0
        self.sent: list[float] = []  # since when each request has been under way
        self._rests_until, self._probing = 0.0, False
        self._requests = Limit(options.requests_per_minute)
        self._tokens = Limit(options.tokens_per_minute)
        self._clients = itertools.cycle([client_for(url, variable, proxy, options)
                                         for _ in range(0, options.requests_in_flight, CLIENT_REQUESTS)])

    @property
    def takes_requests(self) -> bool:
        """It has room and is well; after a rest one request at a time tries whether it is."""
        rests = self.rests_for > 0 or (self.failures > 0 and self._probing)
        return self.in_flight < self.options.requests_in_flight and not rests

    @property
    def rests_for(self) -> float:
        """Seconds before it takes requests again."""
        return max(0.0, self._rests_until - time.monotonic())

    async def models(self) -> list[str]:
        """The names of the models that the server lists. Raises what the client raises."""
        import openai

        async with asyncio.timeout(LIST_SECONDS):
            listed = await next(self._clients).get("/models", cast_to=openai.HttpxBinaryResponseContent)
            return [str(one["id"]) for one in read_body(listed.response)["data"] or ()]

    async def post(self, body: Mapping[str, Any], stopped: threading.Event) -> tuple[Any, float] | None:
        """One attempt within `request_timeout` seconds: (the server's JSON, seconds); None if `stopped` was
        set before it was sent. Raises what the client and `read_body` raise."""
        import openai

        characters = sum(len(message["content"]) for message in body["messages"])
        expected = characters / CHARACTERS_A_TOKEN + (body.get("max_tokens") or 0)
        used, probes, start = 0.0, self.failures > 0, 0.0
        self.in_flight += 1
        self._probing |= probes
        try:
            await self._requests.take(1, stopped)
            await self._tokens.take(expected, stopped)
            if stopped.is_set():
                return None
            start = time.monotonic()
            self.sent.append(start)
            async with asyncio.timeout(self.options.request_timeout):  # the client's own is per read
                sent = await next(self._clients).post("/chat/completions", body=body,
                                                      cast_to=openai.HttpxBinaryResponseContent)
            answer = read_body(sent.response)
            self.failures, self.answered_at = 0, time.monotonic()
            usage = answer.get("usage") if isinstance(answer, dict) else None
            used = count(usage.get("total_tokens")) if isinstance(usage, dict) else 0
            used = used or expected
            return answer, self.answered_at - start
        except Exception as error:
            if fault_of(error) in (Fault.LOST, Fault.BUSY):
                self._rest(asked_to_wait(error), start)
            raise
        finally:
            self._tokens.correct(expected, used)
            if start:
                self.sent.remove(start)
            self.in_flight -= 1
            self._probing &= not probes

    def _rest(self, asked: float | None, sent: float) -> None:
        """Rest for as long as the server asks, and longer with every failure in a row. A request that was
        sent before the last rest ended proves nothing new."""
        now = time.monotonic()
        if sent >= self._rests_until:
            self.failures += 1
            self._rests_until = now + backoff(self.failures - 1)
        if asked is not None:
            self._rests_until = max(self._rests_until, now + asked)


class Pool:
    """All endpoints of a model; `size` requests are in flight at most."""

    def __init__(self, endpoints: Sequence[Endpoint], max_retries: int, model: str,
                 offered: Sequence[str] = ()) -> None:
        """`model` and the models that the servers offer are named in errors."""
        self.endpoints, self.max_retries, self.model, self.offered = endpoints, max_retries, model, offered
        self.size = sum(one.options.requests_in_flight for one in endpoints)
        self.patience = max(one.options.request_timeout for one in endpoints)
        self._slots = asyncio.Semaphore(self.size)

    async def post(self, body: Mapping[str, Any], stopped: threading.Event) -> tuple[Any, float] | None:
        """As `Endpoint.post`, after as many attempts as needed, `max_retries` at most beyond the first.

        Raises the last attempt's error if only this request is at fault, UserError if the next would fail
        too.
        """
        import openai

        async with self._slots:
            since, attempt, slow = time.monotonic(), 0, 0
            while (endpoint := await self._least_loaded(stopped)) is not None:
                try:
                    return await endpoint.post(body, stopped)
                except (openai.OpenAIError, TimeoutError, ValueError) as error:
                    fault = fault_of(error)
                    slow += fault is Fault.SLOW
                    last = attempt == self.max_retries
                    if fault is Fault.FOR_GOOD or (fault is Fault.LOST and self._all_lost(last, since)):
                        raise refusal(endpoint.address, endpoint.variable, error, self.model,
                                      self.offered) from error
                    if last or slow > TIMEOUT_RETRIES or fault in (Fault.TOO_LONG, Fault.REFUSED):
                        raise
                    if fault in (Fault.SLOW, Fault.PASSING):  # else the endpoint rests
                        await pause(backoff(attempt), stopped)
                attempt += 1
            return None

    def under_way(self) -> str:
        """What its requests wait for, in words. Any thread may ask."""
        now, sent = time.monotonic(), [at for one in self.endpoints for at in list(one.sent)]
        told = [f"{len(sent)} in flight, the oldest for {now - min(sent):.0f} s"] if sent else []
        waiting = sum(one.in_flight for one in self.endpoints) - len(sent)
        if waiting > 0:  # another thread counts on meanwhile
            told.append(f"{waiting} wait for the rate limit")
        told += [f"{one.address} rests for {one.rests_for:.0f} s after {one.failures} failures"
                 for one in self.endpoints if one.rests_for >= 1]
        return ", ".join(told)

    async def _least_loaded(self, stopped: threading.Event) -> Endpoint | None:
        """Of the endpoints that take requests the least busy; waits while none does."""
        while not stopped.is_set():
            if ready := [one for one in self.endpoints if one.takes_requests]:
                return min(ready, key=lambda one: one.in_flight)
            await asyncio.sleep(POLL)
        return None

    def _all_lost(self, last: bool, since: float) -> bool:
        """No endpoint answered during this request's attempts, which were the `last`; or, as many requests
        take turns at trying, every endpoint failed more often in a row than one request may."""
        tried = last and all(one.answered_at < since for one in self.endpoints)
        return tried or all(one.failures > self.max_retries + 1 for one in self.endpoints)


def public(url: str) -> str:
    """The address without user, password and query, fit for files that are passed on."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
