"""Ending an engine's calls from another thread: nothing can be thrown into a generator that is running."""

import threading
import weakref

import torch
from transformers import StoppingCriteria

from raft_fast.engines.base import WindDown


class Call(StoppingCriteria):
    """One call of an engine, as it sees that it is to end. Given to `generate` it ends a batch after the
    token that is being drawn, unless it is a WindDown."""

    def __init__(self) -> None:
        self.ended: KeyboardInterrupt | None = None

    def go_on(self) -> None:
        """Raises what the call was ended with."""
        if self.ended is not None:
            raise type(self.ended)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        """Whether each row is done, bool [rows]."""
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

    def end(self, how: KeyboardInterrupt) -> None:
        """All of those begun so far; a later one is not concerned."""
        with self._lock:
            for call in self._open:
                call.ended = how
