"""What the metrics are called and what their changes mean, for the table and the report."""

from collections.abc import Iterator
from typing import Any

from raft_fast.report.text import value

LABELS = {
    "jury": "Correct by the jury",
    "token_f1": "Token F1",
    "similarity": "Similarity to the gold answer",
    "number_f1": "Agreement of numbers (F1)",
    "reference_f1": "Agreement of legal references (F1)",
    "nll": "Gold answer, nats per token",
    "strict_prompt": "Prompts followed, strict",
    "strict_instruction": "Instructions followed, strict",
    "loose_prompt": "Prompts followed, loose",
    "loose_instruction": "Instructions followed, loose",
}
TITLES = {
    "domain": "Domain: held-out questions",
    "paraphrases": "Domain: trained questions in other words",
    "general": "General: IFBench",
}
BEHAVIOUR = {"words": "Words an answer", "cut_off": "Answers cut off", "refused": "Answers that refuse"}
TOO_FEW = "too few rows"
ENOUGH = 10
SURE = 0.05  # a p below it is no noise


def measured(part: dict[str, Any] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The metrics of a part that some row has: texts without numbers have none to agree on."""
    for name, metric in (part or {"metrics": {}})["metrics"].items():
        if metric["base"]["n"] or metric["trained"]["n"]:
            yield name, metric


def interval(mean: dict[str, Any], signed: bool = False) -> str:
    """"[low, high]", or nothing where there is no interval."""
    if mean["low"] is None:
        return ""
    return f"[{value(mean['low'], signed)}, {value(mean['high'], signed)}]"


def with_interval(mean: dict[str, Any], signed: bool = False) -> str:
    """"0.198 [0.17, 0.23]", or the mean alone where there is no interval."""
    return f"{value(mean['mean'], signed)} {interval(mean, signed)}".rstrip()


def judgement(metric: dict[str, Any]) -> str:
    """better or worse where the change is beyond noise; no verdict on a handful of rows, whose bootstrap
    means little."""
    change = metric["change"]
    if change["n"] == 0:
        return ""
    if change["n"] < ENOUGH:
        return TOO_FEW
    if change["low"] is None and change["mean"] == 0:
        return "same"
    if not beyond_noise(change, metric.get("p")):
        return "within noise"
    return "better" if (change["mean"] > 0) == metric["higher_is_better"] else "worse"


def beyond_noise(change: dict[str, Any], p: float | None) -> bool:
    """Whether the change's interval leaves zero out. All rows that change alike leave a bootstrap without
    an interval; the permutation test, which has swapped them, decides then."""
    if change["low"] is None:
        return bool(change["mean"]) and p is not None and p < SURE
    return not change["low"] <= 0 <= change["high"]
