"""Other suites: tasks of lm-eval (EleutherAI's lm-evaluation-harness) on both models."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from raft_fast.evaluation.scores import MODELS, Pair, compare_pairs
from raft_fast.run.errors import UserError, first_line, require
from raft_fast.run.options import CompareOptions
from raft_fast.run.progress import Reporter

Result = dict[str, Any]


class Tasks(NamedTuple):
    """Tasks (or groups of them) whose data could be loaded, and lm-eval's manager of them."""

    names: list[str]
    manager: Any
    limit: int | None


def find_tasks(options: CompareOptions) -> Tasks | None:
    """The tasks that the options name, their data loaded once; None if they name none. Raises UserError if
    lm-eval is missing, does not know a task, or cannot load its data."""
    names = [name.strip() for name in options.lm_eval.split(",") if name.strip()]
    if not names:
        return None
    require("lm_eval", "lm-eval")
    from lm_eval.tasks import TaskManager

    manager = None
    for name in names:
        try:
            manager = manager or TaskManager(include_path=options.lm_eval_include)
            manager.load([name])
        except Exception as error:  # every task reads its data in its own way, some with another package
            raise UserError(f"--lm_eval {name}: cannot be loaded: {first_line(error)}; lm-eval must know the "
                            "task, or --lm_eval_include name a folder with it, and its data must be on the "
                            "Hub, in its cache (HF_HOME) or beside the task") from error
    return Tasks(names, manager, options.lm_eval_limit or None)


def run_tasks(tasks: Tasks, engines: Mapping[str, Any], reporter: Reporter) -> Result:
    """lm-eval's scores of both models, by engines of this process, with their standard errors, and the change
    over the documents with its interval."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    runs: dict[str, Result] = {}
    for name, engine in engines.items():
        with reporter.phase(f"lm-eval {name}"):
            runs[name] = lm_eval.simple_evaluate(
                model=HFLM(pretrained=engine.model, tokenizer=engine.chat.tokenizer,
                           batch_size=engine.batch_size),
                tasks=tasks.names, task_manager=tasks.manager, limit=tasks.limit, apply_chat_template=True)
    return {"version": getattr(lm_eval, "__version__", None), "limit": tasks.limit, "tasks": {
        task: {metric: _compared(metric, runs["base"], runs["trained"], task)
               for metric, value in scores.items()
               if "," in metric and "_stderr," not in metric and isinstance(value, int | float)}
        for task, scores in runs["base"]["results"].items()}}


def _compared(metric: str, base: Result, trained: Result, task: str) -> Result:
    """One "metric,filter" of a task's results."""
    name, chosen = metric.split(",", 1)
    left, right = (
        [_pair(one.get(name)) for one in sorted(run["samples"].get(task, []), key=lambda one: one["doc_id"])
         if one.get("filter", chosen) == chosen] for run in (base, trained))
    found = compare_pairs(left, right)
    for side, run in zip(MODELS, (base, trained), strict=True):
        stderr = run["results"][task].get(f"{name}_stderr,{chosen}")
        found[side] = {"mean": run["results"][task][metric],
                       "stderr": stderr if isinstance(stderr, int | float) else None}
    return found | {"higher_is_better": base.get("higher_is_better", {}).get(task, {}).get(name)}


def _pair(value: Any) -> Pair | None:
    """(value, weight) of one document; None if the metric is not one of single documents."""
    if isinstance(value, list | tuple) and value and all(isinstance(one, bool) for one in value):
        return float(sum(value)), float(len(value))  # several instructions in one prompt
    return (float(value), 1.0) if isinstance(value, int | float) else None
