"""Other suites: tasks of lm-eval (EleutherAI's lm-evaluation-harness) on both models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft_fast.engines import Engine
from raft_fast.evaluation.scores import Pair, paired_change, paired_p
from raft_fast.run.errors import UserError, first_line, require
from raft_fast.run.files import write_jsonl
from raft_fast.run.options import CompareOptions
from raft_fast.run.progress import Reporter

FILE = "lm_eval.jsonl"  # every answer
KEPT = ("doc_id", "doc", "target", "resps", "filtered_resps", "filter")  # of a sample, beside its metrics
Result = dict[str, Any]


@dataclass(frozen=True)
class Tasks:
    """Names of tasks (or groups of them) that lm-eval knows and whose data could be loaded."""

    names: list[str]
    manager: Any
    limit: int | None


def find_tasks(options: CompareOptions) -> Tasks | None:
    """The tasks that the options name, their data loaded once; None if they name none.

    Raises UserError if lm-eval is missing, does not know a task, or cannot load its data.
    """
    names = [name.strip() for name in options.lm_eval.split(",") if name.strip()]
    if not names:
        return None
    require("lm_eval", "lm-eval")
    if options.lm_eval_include is not None and not Path(options.lm_eval_include).is_dir():
        raise UserError(f"--lm_eval_include {options.lm_eval_include}: no such folder")
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=options.lm_eval_include)
    for name in names:
        if name not in manager.all_tasks:
            raise UserError(f"--lm_eval {name}: lm-eval has no such task; --lm_eval_include names a folder "
                            "with your own")
        try:
            manager.load([name])
        except Exception as error:  # every task reads its data in its own way, some with another package
            raise UserError(f"--lm_eval {name}: cannot be loaded: {first_line(error)}; its data come from "
                            "the Hub or its cache (HF_HOME), or from files in --lm_eval_include") from error
    return Tasks(names, manager, options.lm_eval_limit or None)


def run_tasks(tasks: Tasks, engines: Mapping[str, Engine], output_dir: Path, reporter: Reporter) -> Result:
    """lm-eval's scores of both models with their standard errors, and the change over the documents with its
    interval. Every answer goes to `output_dir`/lm_eval.jsonl.

    Raises UserError for an engine that is not in this process.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    from raft_fast.engines.hf import HFEngine

    runs: dict[str, Result] = {}
    for name, engine in engines.items():
        if not isinstance(engine, HFEngine):
            raise UserError(f"--lm_eval: {engine.identity} is not a model in this process; name a folder or "
                            "a Hub name")
        with reporter.phase(f"lm-eval {name}"):
            model = HFLM(pretrained=engine.model, tokenizer=engine.chat.tokenizer,
                         batch_size=engine.batch_size)
            runs[name] = lm_eval.simple_evaluate(
                model=model, tasks=tasks.names, task_manager=tasks.manager, limit=tasks.limit,
                apply_chat_template=True, log_samples=True)
    write_jsonl(({"model": name, "task": task, **{key: one[key] for key in (*KEPT, *one.get("metrics", ()))
                                                  if key in one}}
                 for name, run in runs.items() for task, samples in run["samples"].items()
                 for one in samples), output_dir / FILE)
    return {"version": getattr(lm_eval, "__version__", None), "limit": tasks.limit, "tasks": {
        task: {metric: _compared(metric, runs["base"], runs["trained"], task)
               for metric, value in scores.items()
               if "," in metric and "_stderr," not in metric and isinstance(value, int | float)}
        for task, scores in runs["base"]["results"].items()}}


def _compared(metric: str, base: Result, trained: Result, task: str) -> Result:
    """One "metric,filter" of a task's results."""
    name, chosen = metric.split(",", 1)

    def score(run: Result) -> Result:
        stderr = run["results"][task].get(f"{name}_stderr,{chosen}")
        return {"mean": run["results"][task][metric],
                "stderr": stderr if isinstance(stderr, int | float) else None}

    def pairs(run: Result) -> list[Pair | None]:
        samples = sorted(run["samples"].get(task, []), key=lambda one: one["doc_id"])
        return [_pair(one.get(name)) for one in samples if one.get("filter", chosen) == chosen]

    return {"base": score(base), "trained": score(trained),
            "higher_is_better": base.get("higher_is_better", {}).get(task, {}).get(name),
            "change": paired_change(pairs(base), pairs(trained)), "p": paired_p(pairs(base), pairs(trained))}


def _pair(value: Any) -> Pair | None:
    """(value, weight) of one document; None if the metric is not one of single documents."""
    if isinstance(value, Sequence) and not isinstance(value, str) and value and all(
            isinstance(one, bool) for one in value):  # several instructions in one prompt
        return float(sum(value)), float(len(value))
    return (float(value), 1.0) if isinstance(value, int | float) else None
