"""Base and trained model through the same questions, by the same code: evaluation.json."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Row
from raft_fast.engines import Engine
from raft_fast.evaluation.accuracy import add_accuracy
from raft_fast.evaluation.compare import MODELS, compare
from raft_fast.evaluation.domain import SimilarityEncoder
from raft_fast.evaluation.exam import Answers, Exam, set_exam, sit
from raft_fast.evaluation.jury import Jury
from raft_fast.evaluation.lm_eval import Tasks, run_tasks
from raft_fast.run.files import write_json, write_jsonl
from raft_fast.run.options import EvaluateOptions
from raft_fast.run.progress import Reporter

FILE = "evaluation.json"


def evaluate(
    base_engine: Engine, trained_engine: Engine, rows: Sequence[Row], options: EvaluateOptions,
    encoder: SimilarityEncoder, reporter: Reporter, output_dir: Path, *,
    ifbench: Path | None = None, jury: Jury | None = None, tasks: Tasks | None = None,
) -> dict[str, Any]:
    """Measure both models on `rows`, on --paraphrases where there are some, in general, by lm-eval's
    `tasks`, and let the `jury` judge.

    Writes `output_dir`/evaluation.json, which it also returns, and generations.jsonl with every raw
    answer, the latter after each model, the former whenever a part is added: a judge that fails costs
    nothing but its votes. `options.eval_rows` is the caller's to apply; `ifbench` as in `set_exam`.
    """
    start = time.perf_counter()
    output_dir.mkdir(parents=True, exist_ok=True)
    exam = set_exam(rows, options, encoder, reporter, ifbench=ifbench)
    answers: dict[str, Answers] = {}
    for name, engine in zip(MODELS, (base_engine, trained_engine), strict=True):
        answers[name] = sit(exam, engine, name, reporter)
        write_jsonl((record for model, one in answers.items() for record in one.records(model)),
                    output_dir / "generations.jsonl")
    result = compare(exam, answers["base"], answers["trained"]) | {
        "drift": drift_of(exam, base_engine, trained_engine, reporter),
        "seconds": round(time.perf_counter() - start, 3)}
    write_json(result, output_dir / FILE)
    if tasks is not None:
        engines = dict(zip(MODELS, (base_engine, trained_engine), strict=True))
        result |= {"lm_eval": run_tasks(tasks, engines, output_dir, reporter)}
        write_json(result, output_dir / FILE)
    if jury is not None:
        result = add_accuracy(result, answers, jury, output_dir, reporter)
        write_json(result, output_dir / FILE)
    return result


def drift_of(exam: Exam, base: Engine, trained: Engine, reporter: Reporter) -> dict[str, Any] | None:
    """How far the trained model is from the base; None where one of them is a server, or nothing is
    asked."""
    from raft_fast.engines.hf import HFEngine

    if not (exam.drift_prompts and isinstance(base, HFEngine) and isinstance(trained, HFEngine)):
        return None
    from raft_fast.evaluation.drift import draw_probes, measure_drift, summarize_drift
    from raft_fast.evaluation.weights import weight_distance

    probes = draw_probes(exam.drift_prompts, base, exam.options.drift_max_new_tokens, reporter)
    measured = measure_drift(base, trained, probes, reporter)
    return summarize_drift(measured) | {"weights": weight_distance(base.model, trained.model)}
