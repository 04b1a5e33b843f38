"""Progress for people who wait: position, time left, and the cost of each phase."""

from contextlib import contextmanager

from raft_fast.run import progress
from raft_fast.run.progress import Reporter


@contextmanager
def beat_at_the_end(seconds, act):
    yield
    act()


def test_lines_of_a_log(monkeypatch, capsys):
    """A phase inside another has its own time; 20 of 60 steps were found, 1 took 2 s: 39 are left, 78 s."""
    now, reporter = [0.0], Reporter()
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(progress, "_every", beat_at_the_end)  # else every ten seconds
    with reporter.phase("train", 60, "steps") as advance:
        advance(0, found=20)
        with reporter.phase("evaluate"):
            now[0] += 1
        advance(1, note="loss 2.1\nand more")
        now[0] += 1
    assert [cost[:2] for cost in reporter.costs] == [("evaluate", 1), ("train", 1)]
    assert reporter.costs[0][2] > 10**6  # resident bytes
    assert capsys.readouterr().err.splitlines() == [
        "train: 0/60 steps", "evaluate ...", "evaluate: 1 s so far", "evaluate: done in 1.0 s",
        "train: 21/60 steps, 78 s left loss 2.1 | and more",
        "train: done in 1.0 s loss 2.1 | and more"]


def test_a_bar_and_its_note_are_shown_on_a_terminal(monkeypatch):
    console = progress.Console(force_terminal=True, record=True, width=120)
    monkeypatch.setattr(progress, "console", console)
    with Reporter().phase("train", 2, "steps") as advance:
        advance(2, note="loss 2.1 [x]")
    said = console.export_text()
    assert all(part in said for part in ("train", "2/2", "steps", "loss 2.1 [x]"))
