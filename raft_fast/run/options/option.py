"""What an option is: a dataclass field with its docstring, its range, what it pins and what it needs."""

import ast
import dataclasses
import inspect
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar, Literal

from raft_fast.run.errors import UserError
from raft_fast.run.options.secrets import refuse_in_urls

# What a change of an option would spoil: the rows of a run, the answers of stage 1, the steps of training, or
# the final evaluation, if there are any. "nothing": it may change at any time (speed, devices, reporting).
Part = Literal["rows", "refinement", "training", "evaluation", "nothing"]


def option(
    default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING, pins: Part | None = None,
    needs: str | None = None, least: float | None = None, most: float | None = None,
    above: float | None = None, below: float | None = None, must: str | None = None, why: str = "",
    listed: bool = False, engines: bool = False,
) -> Any:
    """A field of a `Group`.

    pins: where not that of its group. needs: the option without which this one is ignored, as "use_peft"
    (switched on, or not 0) or "balance=ema|gradient". least, most, above, below: its range; `must` says it in
    other words, `why` adds to them. listed: names separated by commas. engines: names of engines, which may
    hold the URL of a server.
    """
    known = {"pins": pins, "needs": needs, "least": least, "most": most, "above": above, "below": below,
             "must": must, "why": why, "listed": listed, "engines": engines}
    return dataclasses.field(default=default, default_factory=factory,
                             metadata={key: value for key, value in known.items() if value not in (None, "")})


@dataclasses.dataclass
class Group:
    """Options of one subject, shown together by --help. Raises UserError for values out of their ranges."""

    pins: ClassVar[Part] = "nothing"

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            value, known = getattr(self, one.name), one.metadata
            if one.type in (int, float):
                check(isinstance(value, Real), f"--{one.name}", value, "a number")
                check(math.isfinite(value), f"--{one.name}", value, "finite")
                inside = (known.get("least", -math.inf) <= value <= known.get("most", math.inf)
                          and known.get("above", -math.inf) < value < known.get("below", math.inf))
                check(inside, f"--{one.name}", value, known.get("must") or _range(known))
            if known.get("engines"):
                refuse_in_urls(f"--{one.name}", value)


def check(holds: bool, name: str, value: Any, must: str) -> None:
    """Raises UserError where `holds` is false."""
    if not holds:
        raise UserError(f"{name} {value}: must be {must}")


def _range(known: Mapping[str, Any]) -> str:
    if "least" in known and (end := known.get("most", known.get("below"))) is not None:
        return f"in [{known['least']}, {end}{']' if 'most' in known else ')'}{known.get('why', '')}"
    words = [f"{word} {known[key]}" for key, word in (
        ("least", "at least"), ("above", "above"), ("most", "at most"), ("below", "below")) if key in known]
    return " and ".join(words) + known.get("why", "")


def docs(group: type[Group]) -> dict[str, str]:
    """The docstring of every option of a group, in one line: the string below it."""
    (source,) = ast.parse(inspect.getsource(group)).body
    assert isinstance(source, ast.ClassDef)
    return {ast.unparse(line.target): " ".join(ast.literal_eval(text.value).split())
            for line, text in itertools.pairwise(source.body)
            if isinstance(line, ast.AnnAssign) and isinstance(text, ast.Expr)}


def pinned_by(groups: Iterable[type[Group] | Group], *parts: Part) -> set[str]:
    """Names of the options that pin one of these parts of a run."""
    return {one.name for group in groups for one in dataclasses.fields(group)
            if one.metadata.get("pins", group.pins) in parts}


def named(groups: Iterable[type[Group] | Group], key: str) -> set[str]:
    """Names of the options whose metadata has `key`: listed, engines."""
    return {one.name for group in groups for one in dataclasses.fields(group) if one.metadata.get(key)}


def needed(needs: str) -> tuple[str, list[str]]:
    """(option, its accepted values; none for any but 0 and false) of what an option needs."""
    name, _, values = needs.partition("=")
    return name, values.split("|") if values else []


def check_needs(given: Iterable[str], groups: Sequence[Group]) -> None:
    """Raises UserError for an option among the names `given` that would be ignored. What a file of options
    holds may wait there for another command line."""
    values = {name: value for group in groups for name, value in vars(group).items()}
    needs = {one.name: one.metadata["needs"] for group in groups for one in dataclasses.fields(group)
             if "needs" in one.metadata}
    for name in given:
        if name in needs:
            other, accepted = needed(needs[name])
            if not (values[other] in accepted if accepted else values[other]):
                raise UserError(f"--{name} requires --{' '.join([other, ' or '.join(accepted)]).strip()}")
