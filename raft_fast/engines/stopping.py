"""An engine's calls as other threads see them: how far they are, and how to end them, since nothing can be
thrown into a generator that is running."""

import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from transformers import StoppingCriteria

from raft_fast.engines.base import WindDown


@dataclass
class Batch:
    """Replies that are drawn together: how many, of how many tokens at most, and how far they are."""

    rows: int
    longest: int
    drawn: int = 0
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        at = f", at token {self.drawn} of at most {self.longest}" if self.drawn else ""
        return f"{self.rows} under way for {time.monotonic() - self.began:.0f} s{at}"


class Call(StoppingCriteria):
    """One call of an engine, as it sees that it is to end. Given to `generate` it ends a batch after the
    token that is being drawn, unless it is a WindDown."""

    def __init__(self) -> None:
        self.ended: KeyboardInterrupt | None = None
        self.batch: Batch | None = None

    @contextmanager
    def drawing(self, rows: int, longest: int) -> Iterator[None]:
        """While so many replies of at most `longest` tokens are drawn together."""
        self.batch = Batch(rows, longest)
        try:
            yield
        finally:
            self.batch = None

    def go_on(self) -> None:
        """Raises what the call was ended with."""
        if self.ended is not None:
            raise type(self.ended)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        """Whether each row is done, bool [rows]."""
        if self.batch is not None:
            self.batch.drawn += 1
        at_once = self.ended is not None and not isinstance(self.ended, WindDown)
        return torch.full((len(input_ids),), at_once, device=input_ids.device)


class Calls:
    """The calls of an engine that are not over."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[Call] = weakref.WeakSet()  # a call is over once nobody holds it
        self._lock = threading.Lock()

    def begin(self) -> Call:
        call = Call()
        with self._lock:
            self._open.add(call)
        return call

    def under_way(self) -> str:
        """What is being drawn, in words; calls take turns, so that it is one batch."""
        with self._lock:
            return next((str(batch) for call in self._open if (batch := call.batch)), "")

    def end(self, how: KeyboardInterrupt) -> None:
        """All of those begun so far; a later one is not concerned."""
        with self._lock:
            for call in self._open:
                call.ended = how
