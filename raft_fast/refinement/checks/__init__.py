"""The checks of a run: each is a function that says what is wrong with a `Case`, or None.

A new built-in check is a function and a line in `CHECKS`; `python -m benchmarks.checks` measures how often
each is wrong itself. Users bring functions (`--checks`) and patterns whose matches in gold answer and answer
must agree: a TOML file (`--check_patterns`, docs/methods/raft.md), where each table is a check. `negation`,
`bounds` and `duty` read patterns in meaning.toml."""

import importlib
import re
import tomllib
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from raft_fast.refinement.checks import forms
from raft_fast.refinement.checks.forms import Case, Check, difference, guess_language, regex, remembered
from raft_fast.refinement.checks.numbers import in_digits, numbers
from raft_fast.run.errors import UserError
from raft_fast.run.options import RefineOptions

AGREE = ("both", "kept", "added", "sides")
TIGHT = re.compile(r"(?<=\d)\s+(?!\w\w)|\s*([-–])\s*")  # "2 a", "11 – 13"
GROUPED = re.compile(r"(?<=\d)[.,\s](?=\d)")  # 1,000 and 1 000 alike, and 4,5 and 4.5
ALIKE, STEM = 0.9, 6  # share of stems in common of texts in nearly the same words; letters of a stem
MEANING: dict[str, list[list[str]]] = tomllib.loads((forms.HERE / "meaning.toml").read_text(encoding="utf-8"))
Found = dict[str, Counter[str]]
"""Names of what rules match -> how often on which side."""


def find(rules: list[tuple[Any, list[str]]], text: str, language: str | None = None) -> tuple[Found, str]:
    """(what the rules match, the text without that). A rule that is no compiled pattern is a template of
    phrases of the language (see `regex`)."""
    found: Found = {}
    for pattern, names in rules:
        def note(match: re.Match[str], names: list[str] = names) -> str:
            groups = [TIGHT.sub(r"\1", one or "").replace("–", "-").lower()
                      for one in (match[0], *match.groups())]
            of = " ".join((match.groupdict().get("of") or "").lower().split())
            sides = [side for group, value in match.groupdict().items() if value is not None and group != "of"
                     for side in group.split("_")]
            for name in names:
                found.setdefault(name.format(*groups, of=of), Counter()).update(sides)
            return " ; "  # keeps the numbers left and right of it apart

        text = (regex(pattern, language) if isinstance(pattern, str) else pattern).sub(note, text)
    return found, text


def opposed(gold: Found, said: Found) -> str | None:
    """The first name of both that is on other sides in each."""
    return next((f"{name!r} is {' and '.join(said[name])}, {' and '.join(sides)} in the gold answer"
                 for name, sides in gold.items()
                 if sides and said.get(name) and not sides.keys() & said[name].keys()), None)


@dataclass(frozen=True)
class Patterns:
    """The check `name`: what the rules (a pattern, its names) find in gold answer and answer must agree."""

    name: str
    rules: list[tuple[re.Pattern[str], list[str]]]
    agree: str

    def __call__(self, case: Case) -> str | None:
        gold, said, asked = (find(self.rules, text)[0] for text in (case.gold, case.answer, case.question))
        if self.agree == "sides":
            return opposed(gold, said)
        return difference(self.name, gold.keys() - said.keys() if self.agree != "added" else set(),
                          said.keys() - gold.keys() - asked.keys() if self.agree != "kept" else set())

    def without(self, text: str) -> str:
        """The text without what the rules match."""
        return find(self.rules, text)[1]


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
            [one.format(*"?" * (rules[-1][0].groups + 1), of="?") for one in rules[-1][1]]
        except (re.error, IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"[{name}] {rule!r}: must be [pattern, name, ...]: {error}") from error
    return Patterns(name, rules, agree)


@remembered
def meaning(name: str, text: str) -> Found:
    """What a set of meaning.toml finds, with numbers in digits."""
    rules = [(pattern, names) for pattern, *names in MEANING[name]]
    plain = GROUPED.sub("", in_digits(text.replace("’", "'"))).lstrip(" ;")
    return defaultdict(Counter, find(rules, plain, guess_language(text))[0])


def turned(name: str, case: Case) -> str | None:
    """What is on another side in the two texts."""
    return opposed(meaning(name, case.gold), meaning(name, case.answer))


def negation(case: Case) -> str | None:
    """A yes became a no, words that deny came or went without others in their place, or of two texts in
    nearly the same words one has more of them. A bound that turned too makes up for it."""
    there, here = (meaning("negation", text) for text in (case.gold, case.answer))
    denied, denies = (found["word"].total() for found in (there, here))
    told = turned("negation", case)
    if not told and denies != denied and here["denial"]["affirms"] == there["denial"]["affirms"]:
        one, other = ({word[:STEM] for word in forms.words(text)
                       if len(word) > 2 and word not in forms.SPEAKERS} for text in (case.gold, case.answer))
        if 2 * len(one & other) >= ALIKE * (len(one) + len(other)):
            told = f"denies in {denies} places, the gold answer in {denied}"
    return turned("answer", case) or (None if told and turned("bounds", case) else told)


def bounds(case: Case) -> str | None:
    """A quantity is bounded from the other side, or changes the other way, and the texts deny alike: "no
    permit below 15 m2" is "a permit above 15 m2"."""
    there, here = (meaning("negation", text)["denial"] for text in (case.gold, case.answer))
    return turned("bounds", case) if there == here else None


def duty(case: Case) -> str | None:
    """The same words follow, or precede, another kind of duty. What need not be done may be done."""
    return turned("duty", case)


# without an answer nothing else can be checked
ALWAYS: dict[str, Check] = {"reply": forms.failed, "empty": forms.empty}
CHECKS: dict[str, Check] = {
    "cut_off": forms.cut_off, "copy": forms.copy, "length": forms.length, "refusal": forms.refusal,
    "loops": forms.loops, "leak": forms.leak, "marks": forms.marks, "language": forms.language,
    "numbers": numbers, "negation": negation, "bounds": bounds, "duty": duty,
}
COMPARING = ("numbers", "negation", "bounds", "duty")  # like patterns not made for texts that are too long
RETRIEVAL = "retrieval"  # made by the filter, over all gold answers


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
    """(name, check) of module:function(question, gold, answer). Raises UserError if there is no such
    function, and when it returns anything but a text or None."""
    module, _, name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"--checks {spec}: must be module:function: {error}") from error

    def own(case: Case) -> str | None:
        found = function(case.question, case.gold, case.answer)
        if not (found is None or (isinstance(found, str) and found)):
            raise UserError(f"--checks {spec} returned {found!r}: must be what is wrong as a text, or None")
        return found

    return name, own
