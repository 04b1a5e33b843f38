"""Seconds of the parts of a step."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Times named parts. On a GPU events mark them: the device is not waited for before `read`."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.laps: list[tuple[str, object, object]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.laps.append((name, start, self._now()))

    def read(self) -> dict[str, float]:
        """Seconds a name, device work included."""
        seconds: dict[str, float] = {}
        for name, start, end in self.laps:
            seconds[name] = seconds.get(name, 0.0) + self._between(start, end)
        return seconds

    def _now(self) -> object:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @staticmethod
    def _between(start: object, end: object) -> float:
        if isinstance(start, float) and isinstance(end, float):
            return end - start
        end.synchronize()  # type: ignore[attr-defined]
        return start.elapsed_time(end) / 1000  # type: ignore[attr-defined, no-any-return]
