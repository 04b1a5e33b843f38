"""Conversations in, replies out as they come: one event loop in the background for all servers."""

import asyncio
import functools
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

from raft_fast.engines.base import Message, Reply, WindDown

DRAIN_SECONDS = 10.0  # what requests in flight get when a user wants to leave: they are paid for

Ask = Callable[[list[Message], threading.Event], Coroutine[Any, Any, Reply | None]]
"""Answers one conversation; None where the event was set before the request was sent."""


@functools.cache
def background_loop() -> asyncio.AbstractEventLoop:
    """The event loop in which all requests of this process wait. It dies with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="servers", daemon=True).start()
    return loop


def in_background(work: Any) -> Any:
    """The result of a coroutine that runs in the background loop."""
    return asyncio.run_coroutine_threadsafe(work, background_loop()).result()


def as_they_come(
    conversations: Iterable[list[Message]], ask: Ask, ahead: int, patience: float
) -> Iterator[tuple[int, Reply]]:
    """(index, reply) as replies come; at most `ahead` conversations are read and not yet answered.

    Where a request raises, or Ctrl-C is pressed, nothing more is sent; what requests in flight still
    bring is yielded, and then it is raised. That takes `patience` seconds at most, after Ctrl-C
    DRAIN_SECONDS; a second Ctrl-C does not wait.
    """
    numbered = enumerate(conversations)
    stopped = threading.Event()
    done: queue.SimpleQueue[tuple[int, Future[Reply | None]]] = queue.SimpleQueue()
    running: set[Future] = set()

    async def guarded(messages: list[Message]) -> Reply | None:
        try:
            return await ask(messages, stopped)
        except Exception:
            stopped.set()  # at once, and not when the caller comes to look: nothing more is sent
            raise

    def start(index: int, messages: list[Message]) -> None:
        future = asyncio.run_coroutine_threadsafe(guarded(messages), background_loop())
        running.add(future)
        future.add_done_callback(lambda finished: done.put((index, finished)))

    def finished(timeout: float | None = None) -> tuple[int, Reply | None]:
        index, future = done.get(timeout=timeout)
        running.discard(future)
        return index, future.result()

    failure: BaseException | None = None
    try:
        more = True
        while more or running:
            while more and len(running) < ahead and done.empty():
                following = next(numbered, None)
                more = following is not None
                if following is not None:
                    start(*following)
            if running:
                index, reply = finished()
                assert reply is not None  # what was not sent comes after the failure
                yield index, reply
    except (Exception, KeyboardInterrupt) as error:
        failure = error
    finally:
        stopped.set()
        if failure is None:
            _cancel(running)
    if failure is not None:
        hurry = isinstance(failure, KeyboardInterrupt) and not isinstance(failure, WindDown)
        yield from _drain(running, finished, DRAIN_SECONDS if hurry else patience)
        raise failure


def _drain(
    running: set[Future], finished: Callable[[float], tuple[int, Reply | None]], patience: float
) -> Iterator[tuple[int, Reply]]:
    end = time.monotonic() + patience
    try:
        while running:
            try:
                index, reply = finished(max(0.0, end - time.monotonic()))
            except queue.Empty:
                return
            except (Exception, CancelledError):
                continue  # the first failure is the one that is raised
            if reply is not None:
                yield index, reply
    finally:
        _cancel(running)


def _cancel(running: set[Future]) -> None:
    for future in running:
        future.cancel()
