"""What the engines of stage 1 are doing: the note behind the progress bar."""

import threading
import time
from collections.abc import Iterable

from raft_fast.engines import Engine, Reply
from raft_fast.engines.journal import Listener

NAMES = {"rewrite": "rewrites", "fuse": "fusions", "judge": "scores", "nll": "likelihoods"}


class Activity:
    """Counts replies by task, those that came from the journal apart, and the rate of the others; what is
    not answered yet the engines tell of themselves."""

    def __init__(self, engines: Iterable[Engine]) -> None:
        self._lock = threading.Lock()
        self._engines = list({id(engine): engine for engine in engines}.values())
        self._counts = dict.fromkeys(NAMES, 0)
        self._cached = self._failed = 0
        self._start = time.monotonic()

    def listener(self, kind: str) -> Listener:
        """What a part of this task reports its replies to."""

        def heard(reply: Reply, fresh: bool) -> None:
            with self._lock:
                self._counts[kind] += 1
                self._cached += not fresh
                self._failed += reply.error is not None

        return heard

    @property
    def fresh(self) -> int:
        """Replies that this start of the command has asked for."""
        return sum(self._counts.values()) - self._cached

    def note(self) -> str:
        """In a line: what came, and what is under way."""
        with self._lock:
            parts = [f"{count} {NAMES[kind]}" for kind, count in self._counts.items() if count]
            if self._cached:
                parts.append(f"{self._cached} of them from the journal")
            if self._failed:
                parts.append(f"{self._failed} failed")
        if fresh := self.fresh:
            parts.append(f"{fresh / max(time.monotonic() - self._start, 1e-9):.1f} replies/s")
        told = [engine.under_way() for engine in self._engines if hasattr(engine, "under_way")]
        return ", ".join(filter(None, [*parts, *told]))
