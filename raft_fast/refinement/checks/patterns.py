r"""Checks that users bring: sets of patterns (`--check_patterns FILE.toml`) and functions (`--checks`).

Each table of the file is a check: what its rules find in gold answer and rewrite must agree.

    [product_codes]
    agree = "both"                                     # the default; "kept": none lost, "added": none made up
    rules = [
        '\bZ-\d{3}\b',                                 # the match itself, in lower case
        ['(?i)part (?:no\. ?|#)(\d+)', 'part {1}'],    # a name for it; {1} is what the first group matched
        ['(\d+) kap\. (\d+) §', 'chapter {1}', '§ {2}'],         # several names
    ]

Rules are Python's regular expressions, tried in their order; what one has matched is seen neither by the next
nor by the checks of numbers, negation, bounds and duty. The rewrite may name what the question names.
configs/legal_references.toml is an example.
"""

import importlib
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from raft_fast.refinement.checks.case import Case, Check, difference
from raft_fast.run.errors import UserError

AGREE = ("both", "kept", "added")
TIGHT = re.compile(r"(?<=\d)\s+(?!\w\w)|\s*([-–])\s*")  # "2 a", "11 – 13"


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


def load_patterns(file: str) -> dict[str, Patterns]:
    """The sets of a TOML file, or of a shipped one by its name. Raises UserError for a bad file."""
    shipped = resources.files("raft_fast_configs") / f"{file}.toml"
    where = f"--check_patterns {file}"
    try:
        content = tomllib.loads((shipped if shipped.is_file() else Path(file)).read_text(encoding="utf-8"))
        return {name: _set(name, table) for name, table in content.items()}
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # no TOML, no text, or a bad set
        raise UserError(f"{where}: {error}") from error


def _set(name: str, table: Any) -> Patterns:
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


def load_check(spec: str) -> tuple[str, Check]:
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
