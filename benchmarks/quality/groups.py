"""Each method at its best beside the base: every value with its change from the base, by what it tells."""

from typing import Any, NamedTuple

from benchmarks.quality.measures import DISTANCE, MEASURES, Measure
from raft_fast.report.names import ENOUGH, beyond_noise
from raft_fast.report.text import counted, percent, short, value

GROUPS = {
    "What was learnt: held-out questions": (
        "domain.jury", "domain.token_f1", "domain.nll", "domain.similarity", "domain.number_f1"),
    "The trained questions in other words": (
        "paraphrases.jury", "paraphrases.token_f1", "paraphrases.nll", "paraphrases.similarity"),
    "What was kept: general behaviour": (
        "general.strict_instruction", "own.kl", "own.nll", "text.nll", DISTANCE),
    "How it answers": (
        "domain.words", "domain.cut_off", "domain.refused", "general.words", "general.cut_off",
        "general.refused"),
}
SHARES = ("jury", "cut_off", "refused", "strict_instruction")
Result = dict[str, Any]


class Cell(NamedTuple):
    """A value, how it differs from the base's, and whether that is better or worse beyond noise."""

    value: str
    change: str
    judgement: str


class Row(NamedTuple):
    """The base or a method at its best point."""

    method: str
    where: str
    cells: list[Cell]


class Group(NamedTuple):
    """One table; columns are measures."""

    title: str
    columns: list[Measure]
    rows: list[Row]


def groups(found: Result) -> list[Group]:
    """The tables that this comparison has values for."""
    known = found["base"]["means"]
    tables = []
    for title, names in GROUPS.items():
        shown = [name for name in names if known.get(name) is not None]
        if shown:
            base = Row("base", "", [Cell(_text(name, known[name]), "", "") for name in shown])
            tables.append(Group(title, [MEASURES[name] for name in shown], [base, *(
                Row(method, place(one), [_cell(name, one) for name in shown])
                for method, one in found["best"].items())]))
    return tables


def place(one: Result) -> str:
    """"2e-05 · step 12 · 3 seeds"."""
    return f"{one['learning_rate']:g} · step {one['step']} · {counted(one['seeds'], 'seed')}"


def _cell(name: str, one: Result) -> Cell:
    stat = one["changes"].get(name)
    return Cell(_text(name, one["means"].get(name)), _change(name, stat), _judgement(MEASURES[name], stat))


def _change(name: str, stat: Result | None) -> str:
    if stat is None or (stat["low"] is None and not stat["mean"]):
        return ""
    mean, low, high = (_text(name, stat[key], True) for key in ("mean", "low", "high"))
    return mean if stat["low"] is None else f"{mean} [{low}, {high}]"


def _judgement(measure: Measure, stat: Result | None) -> str:
    if stat is None or stat["n"] < ENOUGH or not beyond_noise(stat, stat["p"]):
        return ""
    if measure.more_is_better is None:
        return "moved"
    return "better" if (stat["mean"] > 0) == measure.more_is_better else "worse"


def _text(name: str, number: float | None, signed: bool = False) -> str:
    metric = name.split(".")[1]
    if number is not None and metric == "words":
        return f"{number:{'+' if signed else ''}.1f}".replace("-", "−")
    if metric in SHARES:
        return percent(number, signed)
    return short(number, signed) if name == DISTANCE or metric == "kl" else value(number, signed)
