"""Live progress: phase, position, time left; and the cost of each phase.

On a terminal one rich bar a phase; elsewhere (a log file, CI) a plain line every ten seconds."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
from rich import progress as rich
from rich.console import Console

LOG_SECONDS = 10.0
SAMPLE_SECONDS = 0.05
console = Console(stderr=True, highlight=False, markup=False, emoji=False)  # quiet in all processes but one


@dataclass
class Reporter:
    """Shows the phases of a run and remembers their costs, in order."""

    # of each phase: name, wall seconds without those of phases inside it, the process's peak resident bytes
    costs: list[tuple[str, float, int]] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)  # of each phase under way: seconds of those in it

    def say(self, text: str) -> None:
        console.print(text, soft_wrap=True)

    @contextmanager
    def phase(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Callable[..., None]]:
        """Time one phase. Yields `advance(steps=1, note="", found=0)`: `found` further steps were done by an
        earlier start, and count as done, but not for the time left."""
        start, peak, process = time.perf_counter(), [0], psutil.Process()
        self.inside.append(0.0)

        def own_seconds() -> float:
            return time.perf_counter() - start - self.inside[-1]

        def watch() -> None:
            peak[0] = max(peak[0], process.memory_info().rss)

        show = _bar if console.is_terminal else _lines
        with _every(SAMPLE_SECONDS, watch):
            try:
                with show(name, total, unit, own_seconds) as advance:
                    yield advance
            finally:
                watch()
                self.costs.append((name, own_seconds(), peak[0]))
                self.inside.pop()
                if self.inside:
                    self.inside[-1] += time.perf_counter() - start


@contextmanager
def _bar(name: str, total: int | None, unit: str, _: Callable[[], float]) -> Iterator[Callable[..., None]]:
    columns = [rich.TextColumn("{task.description:<28}"), rich.BarColumn(), rich.MofNCompleteColumn(),
               rich.TextColumn(unit), rich.TimeElapsedColumn(), rich.TimeRemainingColumn(),
               rich.TextColumn("{task.fields[note]}", style="dim", markup=False)]
    with rich.Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=total, note="")
        # rich's estimate leaves out the first step, and steps older than half a minute: found ones come first
        yield lambda steps=1, note="", found=0: bar.update(task, advance=steps + found, note=note)


@contextmanager
def _lines(name: str, total: int | None, unit: str,
           own_seconds: Callable[[], float]) -> Iterator[Callable[..., None]]:
    """A line every ten seconds, from a thread, so that batches that finish at once are counted whole."""
    start, done, found_done, noted = time.perf_counter(), 0, 0, ""

    def advance(steps: int = 1, note: str = "", found: int = 0) -> None:
        nonlocal done, found_done, noted
        done, found_done, noted = done + steps, found_done + found, note

    def say(far: str) -> None:
        console.print(f"{name}{far} {' | '.join(noted.splitlines())}".rstrip(), soft_wrap=True)

    def beat() -> None:
        seconds, there = time.perf_counter() - start, done + found_done
        if total is None:
            return say(f": {there} {unit}" if there else f": {seconds:.0f} s so far")
        left = f", {seconds / done * (total - there):.0f} s left" if done else ""
        say(f": {there}/{total} {unit}{left}")

    say(" ..." if total is None else f": 0/{total} {unit}")
    with _every(LOG_SECONDS, beat):
        yield advance
    say(f": done in {own_seconds():.1f} s")


@contextmanager
def _every(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` again and again, in a thread, while the block runs."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(seconds):
            act()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
