"""Base against trained, part by part: what evaluation.json holds."""

from collections.abc import Callable
from typing import Any

from raft_fast.evaluation import domain, general
from raft_fast.evaluation.behaviour import behaviour
from raft_fast.evaluation.domain import DomainScores
from raft_fast.evaluation.exam import Answers, Exam
from raft_fast.evaluation.general import GeneralScores, GeneralSuite
from raft_fast.evaluation.statistics import paired_change, paired_p

MODELS = ("base", "trained")
INTERVALS = ("95 %: bootstrap over rows (seeded), Wilson for shares, paired bootstrap for changes; absent "
             "where the data give none. p: permutation test over pairs of answers")
Result = dict[str, Any]


def compare(exam: Exam, base: Answers, trained: Answers) -> Result:
    """Scores of both models with the change between them, for every part of the exam."""
    parts: Result = {name: _domain(base.domains[name], trained.domains[name]) for name in exam.rows}
    return {
        "models": {"base": base.model, "trained": trained.model},
        **parts,
        "general": _general(exam.general, base.general, trained.general),
        "general_skipped": exam.general_skipped,
        "behaviour": _behaviour(base, trained),
        "intervals": INTERVALS,
        "options": vars(exam.options),
    }


def _domain(base: DomainScores, trained: DomainScores) -> Result:
    return {
        "rows": len(base.records),
        "metrics": {metric: _metric(base, trained, metric) | {"higher_is_better": better}
                    for metric, better in domain.METRICS.items()},
        "failed": _count(base, trained, lambda record: record["error"] is not None),
        "truncated": _count(base, trained, lambda record: record["finish_reason"] == "length"),
    }


def _general(suite: GeneralSuite | None, base: GeneralScores | None, trained: GeneralScores | None
             ) -> Result | None:
    if suite is None or base is None or trained is None:
        return None
    metrics = {}
    for metric in general.METRICS:
        compared = _metric(base, trained, metric)
        metrics[metric] = compared | {"higher_is_better": True, "retention": retention(compared)}
    return {
        "suite": general.NAME,
        "prompts": len(suite.prompts),
        "prompts_total": suite.total,
        "keys": [prompt.key for prompt in suite.prompts],
        "metrics": metrics,
        "left_out": {"instructions": suite.left_out.instructions,
                     "prompts": len(suite.left_out.prompts),
                     "not_in_slice": suite.total - len(suite.left_out.prompts) - len(suite.prompts)},
        "failed": _count(base, trained, lambda record: record["error"] is not None),
        "truncated": _count(base, trained, lambda record: record["finish_reason"] == "length"),
        "crashed_verifiers": {name: sum(record["crashed"] for record in scores.records)
                              for name, scores in zip(MODELS, (base, trained), strict=True)},
    }


def _behaviour(base: Answers, trained: Answers) -> Result:
    """Length, cut-offs and refusals of the answers to held-out rows and to general prompts."""
    found = {"domain": behaviour(base.domains["domain"].records, trained.domains["domain"].records)}
    if base.general and trained.general:
        found["general"] = behaviour(base.general.records, trained.general.records)
    return found


def _metric(base: Any, trained: Any, metric: str) -> Result:
    parts = base.parts(metric), trained.parts(metric)
    return {"base": base.means[metric], "trained": trained.means[metric],
            "change": paired_change(*parts), "p": paired_p(*parts)}


def retention(compared: Result) -> float | None:
    """trained / base; null where the base has nothing to keep."""
    base, trained = compared["base"]["mean"], compared["trained"]["mean"]
    return trained / base if base and trained is not None else None


def _count(base: Any, trained: Any, holds: Callable[[Result], bool]) -> dict[str, int]:
    return {name: sum(map(holds, scores.records))
            for name, scores in zip(MODELS, (base, trained), strict=True)}
