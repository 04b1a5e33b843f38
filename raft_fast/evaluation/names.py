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
    """better or worse where the change's interval leaves zero out, otherwise within noise; no verdict on
    a handful of rows, whose bootstrap means little."""
    low, high, n = (metric["change"][key] for key in ("low", "high", "n"))
    if n == 0:
        return ""
    if n < ENOUGH:
        return TOO_FEW
    if low is None:
        return "same" if metric["change"]["mean"] == 0 else "within noise"
    if low <= 0 <= high:
        return "within noise"
    return "better" if (low > 0) == metric["higher_is_better"] else "worse"
