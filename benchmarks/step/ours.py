"""raft-fast as a contender: the program's own loop, with a stopwatch among its callbacks."""

import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.step.inputs import TEMPERATURE, Job, chat_of, load
from raft_fast.distillation import Callback, Teacher, TrainingState
from raft_fast.distillation.loop import train
from raft_fast.models.chat import Chat
from raft_fast.models.load import frozen_dtype


class Enough(Exception):  # noqa: N818
    """All steps are measured: the loop is left before it writes its checkpoint."""


class Stopwatch(Callback):
    """Seconds of whole steps beside the loop's own seconds of their parts."""

    def __init__(self, steps: int) -> None:
        self.wanted, self.steps = steps, []  # type: ignore[var-annotated]

    def on_begin(self, state: TrainingState) -> None:
        self.last = time.perf_counter()

    def on_step(self, state: TrainingState) -> None:
        now, metrics = time.perf_counter(), state.metrics
        self.steps.append({
            "seconds": now - self.last, "student_tokens": metrics["tokens"],
            "compared": metrics["rollout_logprob_gap"] is not None,
            **{key: metrics[key] for key in ("rollout_seconds", "teacher_seconds", "train_seconds",
                                             "rollout_tokens", "teacher_tokens")}})
        if len(self.steps) == self.wanted:
            raise Enough
        self.last = now


def run(job: Job, sft: bool) -> list[dict[str, Any]]:
    """Every step's seconds and tokens; `sft` False leaves the KL loss alone, as TRL has it."""
    student = load(job, torch.float32, packed=True)
    chat, watch = chat_of(job, student), Stopwatch(job.steps)
    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        train(student, make_teacher(job, chat), chat, job.table(), job.options(sft), job.seed, Path(folder),
              [watch])
    return watch.steps


def make_teacher(job: Job, chat: Chat) -> Teacher:
    model = load(job, frozen_dtype(torch.device(job.device)), packed=True)
    return Teacher(model, chat, job.top_k, TEMPERATURE, sees_answer=True)
