"""Evaluation while a run trains: cheap, without generation, the domain learnt and the rest kept."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from raft_fast.distillation import Callback, TrainingState
from raft_fast.distillation.metrics import cut_back
from raft_fast.models.chat import Chat, View
from raft_fast.models.head import head_of
from raft_fast.models.packing import buckets, completion_hidden, completion_ids
from raft_fast.run.files import read_jsonl, write_jsonl

EVALUATIONS = "evaluations.jsonl"
PASS_TOKENS = 8192


class Scorer:
    """Two numbers for a student, in nats a token.

    eval_domain_nll: negative log-likelihood of the held-out gold answers. eval_general_drift: how much
    less likely the original's own answers to general prompts are to the student than to the original;
    an estimate of KL(original ‖ student), 0 before training.
    """

    def __init__(self, chat: Chat, domain: Sequence[View], general: Sequence[View], original: Any) -> None:
        self.chat, self.domain, self.general = chat, domain, general
        self.before = nll(original, chat, general)

    def __call__(self, student: Any) -> dict[str, float | None]:
        after = nll(student, self.chat, self.general)
        drift = None if after is None or self.before is None else after - self.before
        return {"eval_domain_nll": nll(student, self.chat, self.domain), "eval_general_drift": drift}


@torch.inference_mode()
def nll(model: Any, chat: Chat, views: Sequence[View]) -> float | None:
    """Nats a completion token over all views; None where there is none. The model's mode is kept."""
    said = [view for view in views if view.completion]
    if not said:
        return None
    training, total = model.training, 0.0
    model.eval()
    try:
        for chosen in buckets([len(view.ids) for view in said], PASS_TOKENS):
            members = [said[index] for index in chosen]
            hidden = completion_hidden(model, members, chat.pad_id)
            nats = head_of(model).nll(hidden, completion_ids(members, hidden.device))
            total += float(nats.sum(dtype=torch.float64))
    finally:
        model.train(training)
    return total / sum(len(view.completion) for view in said)


class EvaluateEvery(Callback):
    """Scores the student before the first step, every `steps` and after the last; evaluations.jsonl has
    a line for each, and every other callback is told."""

    def __init__(self, steps: int, scorer: Scorer) -> None:
        self.steps, self.scorer = steps, scorer

    def on_begin(self, state: TrainingState) -> None:
        self.path = state.run_dir / EVALUATIONS
        self.done = cut_back(self.path, state.step)
        if not self.done:
            self._evaluate(state)

    def on_step(self, state: TrainingState) -> None:
        if state.step % self.steps == 0 or state.step == state.total:
            self._evaluate(state)

    def _evaluate(self, state: TrainingState) -> None:
        scores = self.scorer(state.student)
        told = {name: score if score is not None and math.isfinite(score) else None
                for name, score in scores.items()}
        state.listeners.on_evaluate(state, scores)
        # last: a step that has its line is never evaluated again, and what was told then would be missed
        self.done.append({"step": state.step, **told})
        write_jsonl(self.done, self.path)


def remember(path: Path, views: Sequence[View]) -> None:
    """Write views as token ids."""
    write_jsonl(({"prompt": view.prompt, "completion": view.completion} for view in views), path)


def recall(path: Path) -> list[View]:
    """What `remember` wrote. Raises UserError where it cannot be read."""
    lines = read_jsonl(path, "its answers are drawn again", ["prompt", "completion"])
    return [View(one["prompt"], one["completion"]) for one in lines]
