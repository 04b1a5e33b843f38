"""What metrics.jsonl holds of a step: reading it back; seconds, speeds and memory."""

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from raft_fast.distillation.examples import Example
from raft_fast.run.files import read_jsonl, write_jsonl

METRICS = "metrics.jsonl"
NOT_FINITE = "not finite"  # why a step was skipped


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """What a log of JSON lines holds; none where there is no file. A kill may have torn its last line."""
    fix = "restore it, or delete it: training goes on from its last checkpoint, without the log before it"
    return list(read_jsonl(path, fix, ["step"], torn=True)) if path.is_file() else []


def cut_back(path: Path, step: int) -> list[dict[str, Any]]:
    """Leaves the log the lines up to a step, and returns them: what came after a checkpoint is made again."""
    kept = [line for line in whole_lines(path) if line["step"] <= step]
    write_jsonl(kept, path)
    return kept


def speeds(metrics: dict[str, Any], drawn: int, examples: Sequence[Example]) -> dict[str, Any]:
    """Tokens of the step's three parts and tokens per second, None where a part had nothing to do.

    rollout: tokens `drawn`, for this and later steps; teacher and train: tokens read, prompts included.
    """
    tokens = {"rollout": drawn,
              "teacher": sum(len(view.ids) for example in examples for view in example.teachers),
              "train": metrics["tokens"]}
    speed = {part: count / seconds if count and (seconds := metrics[f"{part}_seconds"]) else None
             for part, count in tokens.items()}
    return {"rollout_tokens": tokens["rollout"], "teacher_tokens": tokens["teacher"],
            **{f"{part}_tokens_per_second": value for part, value in speed.items()}}


def peak_memory(device: torch.device) -> int:
    """Bytes: CUDA's peak, or the process's peak resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Clock:
    """Times named parts. On a GPU events mark them: the device is not waited for before `read`."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.laps: list[tuple[str, Any, Any]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.laps.append((name, start, self._now()))

    def read(self) -> dict[str, float]:
        """Seconds a name, device work included."""
        seconds: dict[str, float] = {}
        for name, start, end in self.laps:
            if self.on_gpu:
                end.synchronize()
            took = start.elapsed_time(end) / 1000 if self.on_gpu else end - start
            seconds[name] = seconds.get(name, 0.0) + took
        return seconds

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
