"""The processes of one run: started by torchrun or `accelerate launch`, one a device.

The first process alone reads rows, does stage 1, evaluates and writes, and broadcasts the results. In a
single process every method just does its work."""

import atexit
import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
# The others wait out the first one's stage 1 and evaluations. A process that dies needs no time-out: its
# launcher ends the others.
PATIENCE = timedelta(days=30)


class Processes:
    """Rank and number of the processes, and how they communicate."""

    def __init__(self) -> None:
        started = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if started else (0, 1)
        self.is_first = self.rank == 0

    @classmethod
    def start(cls, use_gpu: bool) -> "Processes":
        """Join the others, if a launcher started several; on GPUs each takes the one of its local rank."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
            if use_gpu:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            # gloo beside nccl: python objects and waiting for hours are no work for a GPU
            dist.init_process_group("cpu:gloo,cuda:nccl" if use_gpu else "gloo", timeout=PATIENCE)
            # gloo's threads outlive the group where a device mesh keeps it. One that still has a tensor of
            # the last collective to release needs the interpreter's lock; during the shutdown it aborts.
            atexit.register(time.sleep, 0.2)
        return cls()

    def first(self, work: Callable[[], T]) -> T:
        """The result of `work` in the first process, in all. If it fails there, the others exit silently."""
        answer: list[Any] = [None, False]
        try:
            if self.is_first:
                answer = [work(), True]
        finally:
            if self.size > 1:
                dist.broadcast_object_list(answer)
        if not answer[1]:
            raise SystemExit(1)
        return answer[0]  # type: ignore[no-any-return]

    def together(self, work: Callable[[], T]) -> T:
        """The result of `work` in this process, once all have theirs. If it fails in one, that one raises its
        error and the others exit instead of waiting. `work` may not communicate."""
        well: list[Any] = [False] * self.size
        found: list[T] = []
        try:
            found.append(work())
        finally:
            if self.size > 1:
                dist.all_gather_object(well, bool(found))
        if self.size > 1 and not all(well):
            raise SystemExit(1)
        return found[0]

    def first_then_others(self, work: Callable[[], T]) -> T:
        """`work` in every process, after the first has done it: the others find its downloads."""
        done: list[T] = []
        self.first(lambda: done.append(work()))
        return done[0] if done else work()

    def end(self) -> None:
        """Leave the group, all work done."""
        if self.size > 1:
            dist.destroy_process_group()

    def deal(self, items: Sequence[T]) -> list[Sequence[T]]:
        """One share for each process; every process sees all of them."""
        return [items[rank :: self.size] for rank in range(self.size)]

    def collect(self, share: Sequence[T]) -> list[T]:
        """The items of all shares of `deal`, in their order again."""
        shares: list[Any] = [list(share)] * self.size
        if self.size > 1:
            dist.all_gather_object(shares, list(share))
        return [shares[place % self.size][place // self.size] for place in range(sum(map(len, shares)))]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Summed over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor
