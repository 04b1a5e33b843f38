"""What the engines of stage 1 are doing: the note behind the progress bar."""

import threading
import time
from collections.abc import Callable

from raft_fast.engines import Reply
from raft_fast.refinement.journal import Listener

NAMES = {"rewrite": "rewrites", "fuse": "fusions", "judge": "scores", "nll": "likelihoods"}
EVERY_SECONDS = 0.2


class Activity:
    """Counts replies by task, those that came from the journal apart, and the rate of the others."""

    def __init__(self, show: Callable[..., None]) -> None:
        """`show(0, note=text)` is called now and then."""
        self._show, self._lock = show, threading.Lock()
        self._counts = dict.fromkeys(NAMES, 0)
        self._cached = self._failed = 0
        self._start = self._shown = time.monotonic()

    def listener(self, kind: str) -> Listener:
        """What a part of this task reports its replies to."""

        def heard(reply: Reply, fresh: bool) -> None:
            with self._lock:
                self._counts[kind] += 1
                self._cached += not fresh
                self._failed += reply.error is not None
                if (now := time.monotonic()) - self._shown >= EVERY_SECONDS:
                    self._shown = now
                    self._show(0, note=self.note(now))

        return heard

    def rows_done(self, count: int) -> None:
        with self._lock:
            self._show(count, note=self.note(time.monotonic()))

    def note(self, now: float) -> str:
        parts = [f"{count} {NAMES[kind]}" for kind, count in self._counts.items() if count]
        if self._cached:
            parts.append(f"{self._cached} of them from the journal")
        if self._failed:
            parts.append(f"{self._failed} failed")
        fresh = sum(self._counts.values()) - self._cached
        if fresh:
            parts.append(f"{fresh / max(now - self._start, 1e-9):.1f} replies/s")
        return ", ".join(parts)
