"""Progress for people who wait: what is shown moves while nothing is finished yet."""

from contextlib import contextmanager

import pytest

from raft_fast.run import progress
from raft_fast.run.progress import Reporter


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when told; what would be shown every ten seconds is shown at a phase's end."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(progress, "_every", beat_at_the_end)
    return now


@contextmanager
def beat_at_the_end(seconds, act):
    yield
    act()


def test_a_phase_inside_another_has_its_own_time(clock, capsys):
    reporter = Reporter()
    with reporter.phase("train"):
        clock[0] += 5
        with reporter.phase("evaluate"):
            clock[0] += 12
    assert {name: seconds for name, seconds, _ in reporter.costs} == {"evaluate": 12, "train": 5}
    assert capsys.readouterr().err.splitlines() == [
        "train ...", "evaluate ...", "evaluate: 12 s so far", "evaluate: done in 12.0 s",
        "train: 17 s so far", "train: done in 5.0 s"]


def test_what_an_earlier_start_did_says_nothing_of_the_time_left(clock, capsys):
    """20 of 60 steps found, 1 done in two seconds: 39 are left, 78 seconds. A note is asked each time."""
    notes = iter("abc")
    with Reporter().phase("train", 60, "steps") as advance:
        advance(0, found=20)
        advance(1, note=lambda: f"loss 2.1\n{next(notes)}")
        clock[0] += 2
    assert capsys.readouterr().err.splitlines() == [
        "train: 0/60 steps", "train: 21/60 steps, 78 s left loss 2.1 | a",
        "train: done in 2.0 s loss 2.1 | b"]


def test_a_bar_and_its_note_are_shown_on_a_terminal(monkeypatch):
    console = progress.Console(force_terminal=True, record=True, width=120)
    monkeypatch.setattr(progress, "console", console)
    with Reporter().phase("train", 2, "steps") as advance:
        advance(2, note=lambda: "loss 2.1")
    said = console.export_text()
    assert all(part in said for part in ("train", "2/2", "steps", "loss 2.1"))
