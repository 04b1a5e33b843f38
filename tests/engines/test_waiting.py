"""Rate limits against a clock of their own, back-off, and the waits that servers ask for."""

import asyncio
import threading

import pytest

from raft_fast.engines import endpoint as waiting
from raft_fast.engines.endpoint import Limit


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when somebody sleeps."""
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

        async def sleep(self, seconds):
            self.now += seconds

    one = Clock()
    monkeypatch.setattr(waiting, "time", one)
    monkeypatch.setattr(waiting.asyncio, "sleep", one.sleep)
    return one


def sent_at(clock, limit, *units):
    """When requests of these sizes are let through, in seconds from the start."""
    async def send():
        times = []
        for one in units:
            await limit.take(one, threading.Event())
            times.append(round(clock.now - 1000, 6))
        return times

    return asyncio.run(send())


@pytest.mark.parametrize(("per_minute", "units", "times"), [
    (120, (1, 1, 1, 1), [0, 0.5, 1, 1.5]), (6000, (100, 1000, 50, 1), [0, 1, 11, 11.5]),
    (0, (10**9, 1), [0, 0])])
def test_requests_are_spaced_by_their_size(clock, per_minute, units, times):
    assert sent_at(clock, Limit(per_minute), *units) == times


def test_what_was_not_used_is_given_back(clock):
    limit = Limit(6000)
    assert sent_at(clock, limit, 1000) == [0]
    limit.correct(1000, 100)  # ten seconds' worth was expected, one was used
    assert sent_at(clock, limit, 1) == [1]
    limit.correct(1, 201)
    assert sent_at(clock, limit, 1) == [3.01]


def test_idle_time_is_not_saved_up(clock):
    limit = Limit(60)
    sent_at(clock, limit, 1)
    clock.now += 100
    assert sent_at(clock, limit, 1, 1) == [101 - 1, 101]
