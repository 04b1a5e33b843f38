"""How long to wait: for a rate limit, because a server said so, or because it is in trouble."""

import asyncio
import math
import random
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_DELAY = 0.5  # seconds; doubles with every attempt
LONGEST_DELAY = 60.0
LIMIT_POLL = 1.0  # a wait for a limit looks again this often: finished requests may have given back


class Limit:
    """At most `per_minute` units a minute, evenly spaced; 0 is no limit. Lives in one event loop.

    Sent is what was expected to be used; `correct` puts it right once the use is known.
    """

    def __init__(self, per_minute: float) -> None:
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._free_at = 0.0
        self._line = asyncio.Lock()  # first come, first served

    async def take(self, units: float, stopped: threading.Event) -> None:
        """Wait until the units sent before are worth the time that has passed, or for no longer than until
        `stopped` is set; then send these."""
        if not self._seconds_each:
            return
        async with self._line:
            while (wait := self._free_at - time.monotonic()) > 0 and not stopped.is_set():
                await asyncio.sleep(min(wait, LIMIT_POLL))
            self._free_at = max(self._free_at, time.monotonic()) + units * self._seconds_each

    def correct(self, expected: float, used: float) -> None:
        """A request used more or less than was expected of it."""
        self._free_at += (used - expected) * self._seconds_each


async def pause(seconds: float, stopped: threading.Event) -> None:
    """Sleep; not on once `stopped` is set."""
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0 and not stopped.is_set():
        await asyncio.sleep(min(rest, LIMIT_POLL))


def backoff(attempt: int) -> float:
    """Seconds before attempt number `attempt` + 1: exponential, with full jitter.

    Jitter over the whole range, so that requests that failed together do not come back together.
    """
    return random.uniform(0, min(LONGEST_DELAY, FIRST_DELAY * 2**attempt))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks for: milliseconds, seconds or a date (RFC 9110, 10.2.3)."""
    for header, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[header]) * unit
        except (KeyError, ValueError):
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        date = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
