"""Progress for people who wait: what is shown moves while nothing is finished yet."""

import time
from contextlib import contextmanager

from raft_fast.run import progress
from raft_fast.run.progress import Reporter


def test_a_phase_inside_another_has_its_own_time(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    reporter = Reporter()
    with reporter.phase("train"):
        now[0] += 5
        with reporter.phase("evaluate"):
            now[0] += 12
    assert {name: seconds for name, seconds, _ in reporter.costs} == {"evaluate": 12, "train": 5}
    assert "train: done in 5.0 s" in capsys.readouterr().err


def test_a_note_is_asked_for_its_words_each_time_it_is_shown(monkeypatch, capsys):
    """Also where nothing advances between two lines, as while the first replies are drawn."""
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.01)
    shown = []

    def note():
        shown.append(f"at token {len(shown)}")
        return shown[-1]

    with Reporter().phase("refine", 32, "rows") as advance:
        advance(0, note=note)
        until = time.monotonic() + 10
        while len(shown) < 3 and time.monotonic() < until:
            time.sleep(0.01)
    lines = [line for line in capsys.readouterr().err.splitlines() if "at token" in line]
    assert lines[:3] == [f"refine: 0/32 rows at token {number}" for number in range(3)]


def test_what_an_earlier_start_did_says_nothing_of_the_time_left(monkeypatch, capsys):
    """20 of 60 steps found, 1 done in two seconds: 39 are left, 78 seconds."""
    monkeypatch.setattr(progress, "_every", beat_at_the_end)
    now = iter([0.0, 0.0, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    with Reporter().phase("train", 60, "steps") as advance:
        advance(0, found=20)
        advance(1, note="loss 2.1\n2.0 s")
    assert capsys.readouterr().err.splitlines() == [
        "train: 0/60 steps", "train: 21/60 steps, 78 s left loss 2.1 | 2.0 s",
        "train: done in 2.0 s loss 2.1 | 2.0 s"]


def test_a_phase_of_unknown_length_says_how_long_it_has_been(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_every", beat_at_the_end)
    now = iter([0.0, 0.0, 21.0, 21.0, 21.0, 21.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    with Reporter().phase("load models"):
        pass
    assert capsys.readouterr().err.splitlines() == [
        "load models ...", "load models: 21 s so far", "load models: done in 21.0 s"]


@contextmanager
def beat_at_the_end(seconds, act):
    yield
    act()
