"""metrics.jsonl: one JSON object a step, durable before anything else happens."""

import json
import os
import resource
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from raft_fast.dataset import write_jsonl
from raft_fast.distillation.callbacks import Callback, TrainingState

METRICS = "metrics.jsonl"


class MetricsLog(Callback):
    """Appends every step as it happens; what was logged after the checkpoint is made again.

    Adds `skipped_steps`, how many steps of the run have been skipped so far.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / METRICS

    def on_begin(self, state: TrainingState) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        if lines and not state.step:
            warnings.warn(f"{self.path} holds {len(lines)} steps and no checkpoint was saved yet: training "
                          "starts over", stacklevel=2)
        kept = [json.loads(line) for line in lines[: state.step]]
        write_jsonl(kept, self.path)
        self.file = self.path.open("a", encoding="utf-8")
        state.metrics = kept[-1] if kept else {}
        self.skipped = sum(step["skipped"] for step in kept)

    def on_step(self, state: TrainingState) -> None:
        self.skipped += state.metrics["skipped"]
        state.metrics["skipped_steps"] = self.skipped
        self.file.write(json.dumps(state.metrics, allow_nan=False) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())  # a checkpoint never knows steps that the log does not

    def on_end(self, state: TrainingState) -> None:
        self.file.close()


class StepsInProgress(Callback):
    """Moves a phase's progress on, `advance(steps, note)`, with the losses beside it."""

    def __init__(self, advance: Callable[..., None]) -> None:
        self.advance = advance

    def on_begin(self, state: TrainingState) -> None:
        self.advance(state.step)

    def on_step(self, state: TrainingState) -> None:
        shown = {"loss": "loss", "sft_loss": "sft", "kl_loss": "kl", "lambda": "λ"}
        self.advance(1, note="  ".join(f"{label} {state.metrics[key]:.3g}" for key, label in shown.items()
                                       if state.metrics[key] is not None))


def peak_memory(device: torch.device) -> int:
    """Bytes: CUDA's peak, or the process's peak resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
