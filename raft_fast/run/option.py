"""What an option is: a dataclass field with its help, its range, what it pins and what it requires.

Credentials in options are refused: config.yaml, reports and errors would show them."""

import math
import operator
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from raft_fast.run.errors import UserError, masked

# What a change of an option would spoil: the rows of a run, the answers of stage 1, the steps of training, or
# the final evaluation, if there are any. "nothing": it may change at any time (speed, devices, reporting).
Part = Literal["rows", "refinement", "training", "evaluation", "nothing"]
ENDS = {"least": (operator.ge, "at least"), "above": (operator.gt, "above"),
        "most": (operator.le, "at most"), "below": (operator.lt, "below")}

URL = re.compile(r"\b\w+://[^\s,]+?(?=\+\w+://|[\s,]|$)")
INSTEAD = "put the key into an environment variable and name it at the URL's end, as in https://host/v1#MY_KEY"
# a variable's name, and no key: those have long parts of mixed case, or with digits
VARIABLE = re.compile(r"(?!\d)_*(?:(?:[A-Z]+|[a-z]+|[A-Za-z0-9]{1,11})(?:_+|$))+")
CREDENTIAL = re.compile(
    r"(?:^|[\W_])(?:(?:api|access|auth|secret|private)[\W_]?(?:key|token)s?|passwords?|passwd|passphrase"
    r"|authorization|bearer|credentials?|secrets?)$|^(?:key|token|auth|signature)$", re.IGNORECASE)


def option(default: Any, text: str, *, pins: Part | None = None, needs: str = "", must: str = "",
           listed: bool = False, engines: bool = False, **ends: float) -> Any:
    """A field of a `Group`; `text` is its help.

    pins: where not that of its group. needs: the option without which this one is ignored, as "use_peft"
    (switched on, or not 0) or "balance=ema|gradient". ends: its range, by the names in `ENDS`; `must` says in
    other words what it takes. listed: names separated by commas. engines: names of engines, which may hold
    the URL of a server."""
    known = {"help": text, "pins": pins, "needs": needs, "must": must, "listed": listed, "engines": engines}
    metadata = {key: value for key, value in known.items() if value} | ends
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Group:
    """Options of one subject, shown together by --help. Raises UserError for values out of their ranges."""

    pins: ClassVar[Part] = "nothing"

    def __init_subclass__(cls, pins: Part = "nothing") -> None:
        cls.pins = pins

    def __post_init__(self) -> None:
        for one in fields(self):
            name, value, known = f"--{one.name}", getattr(self, one.name), one.metadata
            if one.type in (int, float):
                check(math.isfinite(value), name, value, "finite")
                ends = {end: known[end] for end in ENDS if end in known}
                told = " and ".join(f"{ENDS[end][1]} {bound}" for end, bound in ends.items())
                check(all(ENDS[end][0](value, bound) for end, bound in ends.items()), name, value,
                      known.get("must", told))
            if known.get("engines"):
                refuse_in_urls(name, value)
                check(not re.search(r"(?:^|,)\s*vllm:", value), name, value,
                      "MODEL@URL for vLLM: start `vllm serve MODEL`")


@dataclass(frozen=True)
class Groups:
    """The options of a command: each field is a group."""

    @classmethod
    def kinds(cls) -> list[Any]:
        return [one.type for one in fields(cls)]

    @property
    def groups(self) -> list[Any]:
        return list(vars(self).values())

    def flat(self) -> dict[str, Any]:
        return flat(self.groups)


def check(holds: bool, name: str, value: Any, must: str) -> None:
    """Raises UserError where `holds` is false."""
    if not holds:
        raise UserError(f"{name} {value}: must be {must}")


def default_of(one: Any) -> Any:
    """The default of an option (a dataclass field)."""
    return one.default_factory() if callable(one.default_factory) else one.default


def flat(groups: Iterable[Any]) -> dict[str, Any]:
    """Every option of the groups by its name."""
    return {name: value for group in groups for name, value in vars(group).items()}


def pinned_by(groups: Iterable[type[Group] | Group], *parts: Part) -> set[str]:
    """Names of the options that pin one of these parts of a run."""
    return {one.name for group in groups for one in fields(group)
            if one.metadata.get("pins", group.pins) in parts}


def named(groups: Iterable[type[Group] | Group], key: str) -> set[str]:
    """Names of the options whose metadata has `key`: listed, engines."""
    return {one.name for group in groups for one in fields(group) if one.metadata.get(key)}


def needed(needs: str) -> tuple[str, list[str]]:
    """(option, its accepted values; none for any but 0 and false) of what an option needs."""
    name, _, values = needs.partition("=")
    return name, values.split("|") if values else []


def check_needs(given: Iterable[str], groups: Sequence[Group]) -> None:
    """Raises UserError for an option among the names `given` that would be ignored. What a file of options
    holds may wait there for another command line."""
    values = flat(groups)
    needs = {one.name: one.metadata["needs"] for group in groups for one in fields(group)
             if "needs" in one.metadata}
    for name in sorted(needs.keys() & given):
        other = name
        while other in needs:
            other, accepted = needed(needs[other])
            if not (values[other] in accepted if accepted else values[other]):
                raise UserError(f"--{name} requires --{' '.join([other, ' or '.join(accepted)]).strip()}")


def refuse_in_urls(name: str, text: str) -> None:
    """Raises UserError, which does not quote it, if a URL in `text` holds a password or a key."""
    for url in URL.findall(text):
        wrong = "a URL holds a user or password, or a key" if masked(url) != url else ""
        try:
            parts = urlsplit(url)
            _ = wrong or parts.port  # raises for http://user:half/of@host
        except ValueError as error:  # it quotes the URL, and so a password
            raise UserError(f"{name}: the host or port of a URL cannot be read; correct it") from error
        if parts.fragment and parts.fragment not in os.environ and not VARIABLE.fullmatch(parts.fragment):
            wrong = "what follows # in a URL is not the name of an environment variable, and may be a key"
        if wrong:
            raise UserError(f"{name}: {wrong}, which would be written into files; {INSTEAD}")


def refuse_in_body(name: str, body: Any) -> None:
    """Raises UserError if a text or list in `body`, at any depth, is named like a credential."""
    for key, value in body.items() if isinstance(body, dict) else [("", one) for one in body]:
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(key))  # accessToken
        if isinstance(value, str | list) and CREDENTIAL.search(words):
            raise UserError(f"{name}: {key} looks like a secret, which would be written into files; "
                            f"{INSTEAD}")
        if isinstance(value, dict | list):
            refuse_in_body(name, value)
