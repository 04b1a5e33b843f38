"""Several items worked on at once: while one waits for an engine, the others keep it busy."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from raft_fast.engines.journal import Stopped
from raft_fast.run.errors import WORKER

PATIENCE_SECONDS = 15.0  # that a user who wants to leave waits for threads to write down what they get

Item = TypeVar("Item")
Result = TypeVar("Result")


def at_once(
    work: Callable[[Item], Result], items: Iterable[Item], limit: int,
    stop: Callable[[BaseException], None],
) -> Iterator[Result]:
    """Yield work(item) for each item, in the items' order, with `limit` of them under way.

    At most twice as many are begun and not yet yielded, so memory is bounded. Where one fails, or
    the caller leaves, `stop` is called with the reason, which must make the others end: with Stopped,
    where they are not done. After a failure all of them are waited for, and the error that is raised
    is the one that Stopped came from; after Ctrl-C they have PATIENCE_SECONDS.
    """
    # Threads of our own, because a pool's threads hold up the end of the process after Ctrl-C.
    running: dict[int, threading.Thread] = {}
    done: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
    ready: dict[int, Result] = {}
    coming = enumerate(items)
    following = 0

    def run(number: int, item: Item) -> None:
        try:
            done.put((number, work(item), None))
        except BaseException as error:  # whatever it is, it belongs to whoever waits for the result
            done.put((number, None, error))

    def start_some() -> None:
        while len(running) < limit and len(running) + len(ready) < 2 * limit:
            for number, item in coming:
                running[number] = threading.Thread(target=run, args=(number, item), daemon=True, name=WORKER)
                running[number].start()
                break
            else:
                return

    def wind_down(error: BaseException) -> BaseException:
        stop(error)
        until = time.monotonic() + PATIENCE_SECONDS
        for thread in running.values():
            leaves = not isinstance(error, Exception)
            thread.join(max(0.0, until - time.monotonic()) if leaves else None)
        while isinstance(error, Stopped) and not done.empty():
            error = done.get()[2] or error  # whoever made it stop failed later or was heard later
        return error

    try:
        start_some()
        while running:
            number, result, error = done.get()
            del running[number]
            if error is not None:
                raise error
            ready[number] = result
            while following in ready:
                start_some()
                yield ready.pop(following)
                following += 1
            start_some()
    except BaseException as error:
        if (cause := wind_down(error)) is error:
            raise
        raise cause from None
