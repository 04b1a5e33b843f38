"""Rate limits against a clock of their own, back-off, and the waits that servers ask for."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from raft_fast.engines import endpoint as waiting
from raft_fast.engines.endpoint import Limit, backoff
from raft_fast.engines.replies import retry_after


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


def test_backoff_doubles_to_a_ceiling_and_is_jittered_over_the_whole_range():
    for attempt, ceiling in [(0, 0.5), (3, 4.0), (30, 60.0)]:
        drawn = [backoff(attempt) for _ in range(400)]
        assert 0 <= min(drawn) < 0.1 * ceiling
        assert 0.9 * ceiling < max(drawn) <= ceiling


@pytest.mark.parametrize(("headers", "seconds"), [
    ({"retry-after": "7"}, 7), ({"retry-after-ms": "250", "retry-after": "7"}, 0.25), ({}, None),
    ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0), ({"retry-after": "-3"}, 0),
    ({"retry-after": "soon"}, None), ({"retry-after": "nan"}, None)])
def test_waits_are_read_in_every_form(headers, seconds):
    assert retry_after(headers) == seconds


def test_a_wait_until_a_date_is_read():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < retry_after({"retry-after": soon}) <= 100
