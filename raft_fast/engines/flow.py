"""Conversations in, replies out as they come: one event loop in the background for all servers."""

import asyncio
import functools
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

from raft_fast.data.texts import Message
from raft_fast.engines.base import Reply, WindDown

DRAIN_SECONDS = 10.0  # for requests in flight when a user wants to leave: they are paid for

Ask = Callable[[list[Message], threading.Event], Coroutine[Any, Any, Reply | None]]
"""Answers one conversation; None if the event was set before the request was sent."""
Done = tuple[int, Future[Reply | None]]


@functools.cache
def background_loop() -> asyncio.AbstractEventLoop:
    """The event loop in which all requests of this process wait. It dies with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="servers", daemon=True).start()
    return loop


def in_background(work: Any) -> Any:
    """The result of a coroutine that runs in the background loop."""
    return asyncio.run_coroutine_threadsafe(work, background_loop()).result()


class Call:
    """One call of an engine: its requests, and a queue of those that are done."""

    def __init__(self, ask: Ask) -> None:
        self._ask, self._stopped = ask, threading.Event()
        self._running: set[Future[Reply | None]] = set()
        self._done: queue.SimpleQueue[Done | KeyboardInterrupt] = queue.SimpleQueue()

    def end(self, how: KeyboardInterrupt) -> None:
        """As if it were thrown into `replies`, from another thread."""
        self._done.put(how)  # before any request that is not sent because of it
        self._stopped.set()  # nothing more is sent, even before the waiting thread sees it

    def replies(
        self, conversations: Iterable[list[Message]], ahead: int, patience: float
    ) -> Iterator[tuple[int, Reply]]:
        """(index, reply) as replies come; at most `ahead` conversations are read and not yet answered.

        If a request raises, Ctrl-C is pressed or the call is ended, nothing more is sent; replies that are in
        flight are yielded, and then it is raised. That takes `patience` seconds at most, after Ctrl-C
        DRAIN_SECONDS; a second Ctrl-C does not wait.
        """
        numbered, more = enumerate(conversations), True
        try:
            while more or self._running:
                while more and len(self._running) < ahead and self._done.empty():
                    following = next(numbered, None)
                    more = following is not None
                    if following is not None:
                        self._start(*following)
                if self._running or not self._done.empty():
                    index, reply = self._result(self._done.get())
                    assert reply is not None  # what was not sent comes after the failure
                    yield index, reply
        except (Exception, KeyboardInterrupt) as error:
            self._stopped.set()
            yield from self._drain(DRAIN_SECONDS if _hurries(error) else patience)
            raise
        finally:
            self._stopped.set()
            for future in self._running:
                future.cancel()

    def _start(self, index: int, messages: list[Message]) -> None:
        future = asyncio.run_coroutine_threadsafe(self._guarded(messages), background_loop())
        self._running.add(future)
        future.add_done_callback(lambda finished: self._done.put((index, finished)))

    async def _guarded(self, messages: list[Message]) -> Reply | None:
        try:
            return await self._ask(messages, self._stopped)
        except Exception:
            self._stopped.set()  # see `end`
            raise

    def _result(self, done: "Done | KeyboardInterrupt") -> tuple[int, Reply | None]:
        if isinstance(done, KeyboardInterrupt):
            raise done
        index, future = done
        self._running.discard(future)
        return index, future.result()

    def _drain(self, patience: float) -> Iterator[tuple[int, Reply]]:
        """Replies in flight. Another interrupt may come meanwhile, and a more urgent one."""
        end = time.monotonic() + patience
        while self._running:
            try:
                done = self._done.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return  # a second Ctrl-C here ends the wait
            try:
                index, reply = self._result(done)
                if reply is not None:
                    yield index, reply
            except KeyboardInterrupt as again:
                if _hurries(again):
                    end = min(end, time.monotonic() + DRAIN_SECONDS)
            except (Exception, CancelledError):
                continue  # the first failure is the one that is raised


def _hurries(error: BaseException) -> bool:
    """Whether a user, or the system, wants to leave."""
    return isinstance(error, KeyboardInterrupt) and not isinstance(error, WindDown)
