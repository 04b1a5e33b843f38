"""Every measure at one setting: a trained model beside the base, and a method beside the baseline."""

from collections.abc import Iterable, Sequence

from benchmarks.quality.deciding import NO, UNDECIDED, YES, Line, Result, change, decide
from benchmarks.quality.measures import MEASURES
from raft_fast.report.names import ENOUGH

# what a model could do before; KL and its own old answers tell that it changed, not that it got worse
GENERAL = ("text.nll", "general.strict_instruction")
BETTER = {YES: "better", NO: "worse", UNDECIDED: "not told apart"}


def lost(found: Result) -> list[Line]:
    """Each method at its best point against the base: yes where one of the measures is worse, no where all
    are better, else undecided."""
    lines = []
    for method, one in found["best"].items():
        told = {name: one["changes"][name] for name in GENERAL if name in one["changes"]}
        if told:
            said = {_said(name, stat) for name, stat in told.items()}
            answer = YES if NO in said else NO if said == {YES} else UNDECIDED
            lines.append(Line(method, answer, _listed(told)))
    return lines


def at_equal_settings(found: Result, methods: Sequence[str]) -> list[Line]:
    """A line a method and learning rate: which measures are better and which worse than the baseline's."""
    lines = []
    for pair in found["pairs"]:
        if pair["method"] not in methods:
            continue
        told = {name: stat for name, stat in pair["measures"].items()
                if MEASURES[name].more_is_better is not None and stat["n"] >= ENOUGH}
        groups = {word: {name: stat for name, stat in told.items() if _said(name, stat) == answer}
                  for answer, word in BETTER.items()}
        parts = [f"{word}: {_listed(group) if word != BETTER[UNDECIDED] else _named(group)}"
                 for word, group in groups.items() if group]
        answers = [word for word in (BETTER[YES], BETTER[NO]) if groups[word]]
        lines.append(Line(pair["method"], " and ".join(answers) or UNDECIDED,
                          f"{pair['learning_rate']:g}, step {pair['step']}: {'; '.join(parts)}"))
    return lines


def _said(name: str, stat: Result) -> str:
    return decide(stat, stat["n"], bool(MEASURES[name].more_is_better))


def _listed(told: dict[str, Result]) -> str:
    return ", ".join(f"{MEASURES[name].label} {change(stat)}" for name, stat in told.items())


def _named(names: Iterable[str]) -> str:
    return ", ".join(MEASURES[name].label for name in names)
