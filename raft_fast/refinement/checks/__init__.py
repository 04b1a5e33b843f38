r"""The checks of a run: each is a function that says what is wrong with a `Case`, or None.

A new built-in check is a function and a line in `CHECKS`; `python -m benchmarks.checks` measures how often
each is wrong itself. Users bring functions (`--checks`) and patterns (`--check_patterns FILE.toml`), where
each table is a check: what its rules find in gold answer and rewrite must agree.

    [product_codes]
    agree = "both"                                     # the default; "kept": none lost, "added": none made up
    rules = [
        '\bZ-\d{3}\b',                                 # the match itself, in lower case
        ['(?i)part (?:no\. ?|#)(\d+)', 'part {1}'],    # a name for it; {1} is what the first group matched
        ['(\d+) kap\. (\d+) §', 'chapter {1}', '§ {2}'],         # several names
    ]

Rules are Python's regular expressions, in order; what one has matched is seen neither by the next nor by the
checks that compare. The rewrite may name what the question names. An example: configs/legal_references.toml.
"""

import importlib
import re
import tomllib
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from raft_fast.refinement.checks import forms
from raft_fast.refinement.checks.forms import Case, Check, difference
from raft_fast.refinement.checks.meaning import bounds, duty, negation
from raft_fast.refinement.checks.numbers import numbers
from raft_fast.run.errors import UserError
from raft_fast.run.options import RefineOptions

Checks = dict[str, str | None]
"""Every check by name: what is wrong, or None."""

# without an answer nothing else can be checked
ALWAYS: dict[str, Check] = {"reply": forms.failed, "empty": forms.empty}
CHECKS: dict[str, Check] = {
    "cut_off": forms.cut_off, "copy": forms.copy, "length": forms.length, "refusal": forms.refusal,
    "loops": forms.loops, "leak": forms.leak, "marks": forms.marks, "language": forms.language,
    "numbers": numbers, "negation": negation, "bounds": bounds, "duty": duty,
}
COMPARING = ("numbers", "negation", "bounds", "duty")  # like patterns not made for texts that are too long
RETRIEVAL = "retrieval"  # made by the filter, over all gold answers
AGREE = ("both", "kept", "added")
TIGHT = re.compile(r"(?<=\d)\s+(?!\w\w)|\s*([-–])\s*")  # "2 a", "11 – 13"

__all__ = ["ALWAYS", "CHECKS", "COMPARING", "RETRIEVAL", "Case", "Check", "Checker", "Checks", "check"]


@dataclass(frozen=True)
class Patterns:
    """The check `name`: what the rules (a pattern, its names) find in gold answer and answer must agree."""

    name: str
    rules: list[tuple[re.Pattern[str], list[str]]]
    agree: str

    def __call__(self, case: Case) -> str | None:
        gold, said, asked = (self.take(text)[0] for text in (case.gold, case.answer, case.question))
        return difference(self.name, gold - said if self.agree != "added" else set(),
                          said - gold - asked if self.agree != "kept" else set())

    def take(self, text: str) -> tuple[set[str], str]:
        """(the names of what the rules match, the text without that)."""
        found: set[str] = set()
        for pattern, names in self.rules:
            def named(match: re.Match[str], names: list[str] = names) -> str:
                groups = [TIGHT.sub(r"\1", one or "").replace("–", "-").lower()
                          for one in (match[0], *match.groups())]
                found.update(name.format(*groups) for name in names)
                return " ; "  # keeps the numbers left and right of it apart

            text = pattern.sub(named, text)
        return found, text


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


def load_patterns(file: str) -> dict[str, Patterns]:
    """The sets of a TOML file, or of a shipped one by its name. Raises UserError for a bad file."""
    shipped = resources.files("raft_fast_configs") / f"{file}.toml"
    where = f"--check_patterns {file}"
    try:
        content = tomllib.loads((shipped if shipped.is_file() else Path(file)).read_text(encoding="utf-8"))
        return {name: _patterns(name, table) for name, table in content.items()}
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # no TOML, no text, or a bad set
        raise UserError(f"{where}: {error}") from error


def _patterns(name: str, table: Any) -> Patterns:
    if not isinstance(table, dict) or not {"rules"} <= {*table} <= {"rules", "agree"}:
        raise ValueError(f"[{name}] must have rules, and may have agree")
    if (agree := table.get("agree", AGREE[0])) not in AGREE:
        raise ValueError(f"[{name}] agree = {agree!r}: must be one of {', '.join(AGREE)}")
    rules = []
    for rule in table["rules"]:
        try:
            text, *names = [rule] if isinstance(rule, str) else rule
            rules.append((re.compile(text), names or ["{0}"]))
            [one.format(*"?" * (rules[-1][0].groups + 1)) for one in rules[-1][1]]
        except (re.error, IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"[{name}] {rule!r}: must be [pattern, name, ...]: {error}") from error
    return Patterns(name, rules, agree)


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
