"""Conversations in, replies out as they come: one event loop in the background for all servers."""

import asyncio
import functools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

from raft_fast.data.texts import Message
from raft_fast.engines.base import Reply, WindDown

DRAIN_SECONDS = 10.0  # what requests in flight get when a user wants to leave: they are paid for

Ask = Callable[[list[Message], threading.Event], Coroutine[Any, Any, Reply | None]]
"""Answers one conversation; None where the event was set before the request was sent."""
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
        self._stopped.set()  # at once, and not when the thread that waits comes to look: nothing more is sent

    def replies(
        self, conversations: Iterable[list[Message]], ahead: int, patience: float
    ) -> Iterator[tuple[int, Reply]]:
        """(index, reply) as replies come; at most `ahead` conversations are read and not yet answered.

        Where a request raises, Ctrl-C is pressed or the call is ended, nothing more is sent; what requests
        in flight still bring is yielded, and then it is raised. That takes `patience` seconds at most, after
        Ctrl-C DRAIN_SECONDS; a second Ctrl-C does not wait.
        """
        numbered = enumerate(conversations)
        failure: BaseException | None = None
        try:
            more = True
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
            failure = error
        finally:
            self._stopped.set()
            if failure is None:
                self._cancel()
        if failure is not None:
            yield from self._drain(DRAIN_SECONDS if _hurries(failure) else patience)
            raise failure

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
        """What is in flight. That nothing else is wanted may be said again meanwhile, and more urgently."""
        end = time.monotonic() + patience
        try:
            while self._running:
                try:
                    done = self._done.get(timeout=max(0.0, end - time.monotonic()))
                except queue.Empty:
                    return
                try:
                    index, reply = self._result(done)
                    if reply is not None:
                        yield index, reply
                except KeyboardInterrupt as again:
                    if _hurries(again):
                        end = min(end, time.monotonic() + DRAIN_SECONDS)
                except (Exception, CancelledError):
                    continue  # the first failure is the one that is raised
        finally:
            self._cancel()

    def _cancel(self) -> None:
        for future in self._running:
            future.cancel()


def _hurries(error: BaseException) -> bool:
    """Whether it is a user, or the system, who wants to leave."""
    return isinstance(error, KeyboardInterrupt) and not isinstance(error, WindDown)


class Calls:
    """The calls of an engine that are not over."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[Call] = weakref.WeakSet()  # a call is over once nobody holds it
        self._lock = threading.Lock()

    def begin(self, ask: Ask) -> Call:
        call = Call(ask)
        with self._lock:
            self._open.add(call)
        return call

    def end(self, how: KeyboardInterrupt) -> None:
        """All of those begun so far; a later one is not concerned."""
        with self._lock:
            for call in self._open:
                call.end(how)
