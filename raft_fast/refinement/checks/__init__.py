"""Plain reasons why an answer cannot be used: each check is a function of a `Case`.

A new check is a function and a line in `CHECKS`, or a user's own (patterns.py). `python -m benchmarks.checks`
measures how often each is wrong itself.
"""

from dataclasses import dataclass, field, replace

from raft_fast.refinement.checks.case import Case, Check
from raft_fast.refinement.checks.meaning import bounds, duty, negation
from raft_fast.refinement.checks.numbers import numbers
from raft_fast.refinement.checks.patterns import Patterns, load_check, load_patterns
from raft_fast.refinement.checks.replies import (
    copy,
    cut_off,
    empty,
    leak,
    length,
    loops,
    marks,
    refusal,
    reply,
)
from raft_fast.refinement.checks.wording import language
from raft_fast.run.errors import UserError
from raft_fast.run.options import RefineOptions

Checks = dict[str, str | None]
"""Every check by name: what is wrong, or None."""

ALWAYS: dict[str, Check] = {"reply": reply, "empty": empty}  # without an answer nothing else can be checked
CHECKS: dict[str, Check] = {
    "cut_off": cut_off, "copy": copy, "length": length, "refusal": refusal, "loops": loops, "leak": leak,
    "marks": marks, "language": language, "numbers": numbers, "negation": negation, "bounds": bounds,
    "duty": duty,
}
COMPARING = ("numbers", "negation", "bounds", "duty")  # like patterns not made for texts that are too long
RETRIEVAL = "retrieval"  # made by the filter, over all gold answers

__all__ = ["ALWAYS", "CHECKS", "COMPARING", "RETRIEVAL", "Case", "Check", "Checker", "Checks", "check"]


@dataclass(frozen=True)
class Checker:
    """The checks of a run: built-in ones, patterns and functions of the user, without those in `skip`."""

    skip: frozenset[str] = frozenset()
    patterns: dict[str, Patterns] = field(default_factory=dict)
    own: dict[str, Check] = field(default_factory=dict)

    @classmethod
    def of(cls, options: RefineOptions) -> "Checker":
        """What the options ask for. Raises UserError for an unknown check, file or function."""
        patterns = load_patterns(options.check_patterns) if options.check_patterns else {}
        own = dict(load_check(spec) for spec in _names(options.checks))
        if taken := {*patterns} & {*own} | ({*patterns, *own} & {*ALWAYS, *CHECKS, RETRIEVAL, "similarity"}):
            raise UserError(f"--check_patterns, --checks: a check is called {min(taken)} already")
        known, skip = [*CHECKS, RETRIEVAL, *patterns, *own], _names(options.skip_checks)
        if unknown := sorted({*skip} - {*known}):
            raise UserError(
                f"--skip_checks {', '.join(unknown)}: no such check; there are {', '.join(known)}")
        return cls(frozenset(skip), patterns, own)

    def __call__(self, case: Case) -> Checks:
        """What each check says, by name. Without an answer only `reply` or `empty` objects."""
        found = {name: objects(case) for name, objects in ALWAYS.items()}
        silent, bare = any(found.values()), case
        for one in () if case.too_long else self.patterns.values():
            bare = Case(one.take(bare.question)[1], one.take(bare.gold)[1],
                        replace(bare.reply, text=one.take(bare.answer)[1]), bare.instructions)
        for name, objects in (CHECKS | self.patterns | self.own).items():
            compares = name in COMPARING or name in self.patterns
            if not (name in self.skip or (compares and case.too_long)):
                found[name] = None if silent else objects(bare if name in COMPARING else case)
        return found


def check(case: Case) -> Checks:
    """What the built-in checks say, by name."""
    return Checker()(case)


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]
