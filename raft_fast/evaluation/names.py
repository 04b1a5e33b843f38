"""What the metrics are called and how their values are written, for the table and the report."""

from typing import Any

LABELS = {
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
NONE, TOO_FEW = "–", "too few rows"
ENOUGH = 10


def value(number: float | None, signed: bool = False) -> str:
    """Three decimals and a true minus sign; a dash for null."""
    if number is None:
        return NONE
    text = f"{number:+.3f}" if signed else f"{number:.3f}"
    return text.replace("-", "\u2212")


def interval(mean: dict[str, Any], signed: bool = False) -> str:
    """"[low, high]", or nothing where there is no interval."""
    if mean["low"] is None:
        return ""
    return f"[{value(mean['low'], signed)}, {value(mean['high'], signed)}]"


def percent(number: float | None) -> str:
    """A share in whole percent; a dash for null."""
    return NONE if number is None else f"{100 * number:.0f}\u00a0%"


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
