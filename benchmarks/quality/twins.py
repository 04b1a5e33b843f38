"""Methods that differ in one option: what does that option do?"""

from collections.abc import Sequence
from typing import Any

# of one run rather than of a method
OF_A_RUN = {"learning_rate", "seed", "save_steps", "save_total_limit", "output_dir", "data"}
Settings = dict[str, Any]


def reference(methods: dict[str, Settings]) -> str | None:
    """The method the others are varied from: the first that distils from a teacher who sees the answer,
    with λ balanced by losses (the paper's) where there is one. None without distillation."""
    raft = [name for name, options in methods.items() if distils(options) and options["teacher_sees_answer"]]
    papers = [name for name in raft if methods[name]["balance"] == "ema"]
    return next(iter(papers or raft), None)


def distils(options: Settings) -> bool:
    """Trained on answers and on a teacher, whatever that one sees: RAFT and its kin."""
    return bool(options.get("distillation") and learns(options))


def learns(options: Settings) -> bool:
    """Whether it is trained on answers at all; the KL term alone is an ablation, no method."""
    return bool(options.get("sft", True))  # cells of before that option were


def twins(methods: dict[str, Settings]) -> list[dict[str, Any]]:
    """The methods that differ from the reference, or else from another that distils, in exactly one option,
    with both values. One that is not trained on answers is none: it has no balance left to speak of."""
    middle = reference(methods)
    others = [name for name, options in methods.items() if distils(options) and name != middle]
    found = []
    for name, options in methods.items():
        for other in [middle, *others] if middle and learns(options) else []:
            changed = _changes(_telling(options), _telling(methods[other]))
            if len(changed) == 1:
                ((key, (own, before)),) = changed.items()
                found.append({"method": name, "reference": other, "option": key, "value": own,
                              "reference_value": before})
            if len(changed) <= 1:  # it is the other, or its twin
                break
    return found


def _changes(own: Settings, before: Settings) -> dict[str, tuple[Any, Any]]:
    return {key: (own.get(key), before.get(key)) for key in sorted({*own, *before})
            if own.get(key) != before.get(key)}


def settings_of(cells: Sequence[dict[str, Any]]) -> dict[str, Settings]:
    """Each method's options, as its first cell had them."""
    found: dict[str, Settings] = {}
    for cell in cells:
        found.setdefault(cell["method"], cell["options"])
    return found


def _telling(options: Settings) -> Settings:
    """What makes a method: λ's rule and its fixed value are one setting."""
    kept = {key: value for key, value in options.items() if key not in OF_A_RUN}
    fixed = kept.pop("fixed_lambda", None)
    if kept.get("balance") == "fixed":
        kept["balance"] = f"fixed {fixed:g}"
    return kept
