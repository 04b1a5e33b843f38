"""The checks of a run: each is a function that says what is wrong with a `Case`, or None.

A new built-in check is a function and a line in `CHECKS`; `python -m benchmarks.checks` measures how often
each is wrong itself. Users bring functions (`--checks`) and patterns (see `patterns`).
"""

import importlib
from dataclasses import dataclass, field, replace

from raft_fast.refinement.checks import forms
from raft_fast.refinement.checks.forms import Case, Check
from raft_fast.refinement.checks.numbers import numbers
from raft_fast.refinement.checks.patterns import Patterns, bounds, duty, load_patterns, negation
from raft_fast.run.errors import UserError
from raft_fast.run.options import RefineOptions

# without an answer nothing else can be checked
ALWAYS: dict[str, Check] = {"reply": forms.failed, "empty": forms.empty}
CHECKS: dict[str, Check] = {
    "cut_off": forms.cut_off, "copy": forms.copy, "length": forms.length, "refusal": forms.refusal,
    "loops": forms.loops, "leak": forms.leak, "marks": forms.marks, "language": forms.language,
    "numbers": numbers, "negation": negation, "bounds": bounds, "duty": duty,
}
COMPARING = ("numbers", "negation", "bounds", "duty")  # like patterns not made for texts that are too long
RETRIEVAL = "retrieval"  # made by the filter, over all gold answers

__all__ = ["ALWAYS", "CHECKS", "COMPARING", "RETRIEVAL", "Case", "Check", "Checker", "load_patterns"]


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
        own = dict(_load_check(spec) for spec in _names(options.checks))
        if taken := {*patterns} & {*own} | ({*patterns, *own} & {*ALWAYS, *CHECKS, RETRIEVAL, "similarity"}):
            raise UserError(f"--check_patterns, --checks: a check is called {min(taken)} already")
        known, skip = [*CHECKS, RETRIEVAL, *patterns, *own], _names(options.skip_checks)
        if unknown := sorted({*skip} - {*known}):
            raise UserError(f"--skip_checks {', '.join(unknown)}: no such check; there are {', '.join(known)}"
                            ", and those of --check_patterns (references of legal_references) and --checks")
        return cls(frozenset(skip), patterns, own)

    def __call__(self, case: Case) -> dict[str, str | None]:
        """What each check has against an answer, or None. Without one only `reply` or `empty` objects."""
        found = {name: objects(case) for name, objects in ALWAYS.items()}
        silent, bare = any(found.values()), case
        for one in () if case.too_long else self.patterns.values():
            bare = Case(one.without(bare.question), one.without(bare.gold),
                        replace(bare.reply, text=one.without(bare.answer)), bare.instructions)
        for name, objects in (CHECKS | self.patterns | self.own).items():
            compares = name in COMPARING or name in self.patterns
            if not (name in self.skip or (compares and case.too_long)):
                found[name] = None if silent else objects(bare if name in COMPARING else case)
        return found


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _load_check(spec: str) -> tuple[str, Check]:
    """(name, check) of module:function, `def check(question: str, gold: str, answer: str) -> str | None`.

    Raises UserError if there is no such function, and when it returns anything but a text or None.
    """
    module, _, name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"--checks {spec}: must be module:function: {error}") from error

    def own(case: Case) -> str | None:
        found = function(case.question, case.gold, case.answer)
        if not (found is None or (isinstance(found, str) and found)):
            raise UserError(f"--checks {spec} returned {found!r}: must be what is wrong as a text, or None")
        return found

    return name, own
