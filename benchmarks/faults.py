"""Faults planted in true answers, one a kind: what a check that is worth its place must find."""

import re
from collections.abc import Callable

from raft_fast.refinement.checks import load_patterns
from raft_fast.refinement.checks.numbers import locate

SWAPS = {
    "bounds": """at least/at most, at most/at least, up to/more than, more than/less than, over/under,
        within/after, minimum/maximum, maximum/minimum, minst/högst, högst/minst, upp till/mer än, inom/efter,
        mer än/mindre än""",
    "duty": """must/may, måste/kan, is not required/is required, is mandatory/is optional, shall/may,
        får inte/behöver inte, may not/need not, obligatorisk/frivillig""",
    "negation": """is not/is, does not/does, are not/are, No permit/A permit, cannot/can, är inte/är,
        inget/ett, ingen/en""",
}
BESIDE_A_NUMBER = r"(?=\W{1,3}(?:[^\W\d]+ ){0,1}\d)"


LAW = load_patterns("legal_references")["references"]


def numbers(text: str) -> str | None:
    """Another last digit in the first number."""
    for one in locate(LAW.without(text))[1]:
        place = re.search(rf"(?<![\w:.,]){re.escape(one.written)}(?![\w:])", text)
        digits = re.search(r"\d(?!\d)", one.written)
        if place and digits:
            at = place.start() + digits.start()
            return text[:at] + str((int(digits[0]) + 4) % 10) + text[at + 1 :]
    return None


def references(text: str) -> str | None:
    """Another section or chapter."""
    found = re.search(r"\d+(?= (?:kap|§))|(?<=[Cc]hapter )\d+|(?<=§ )\d+|(?<=\d{4}:)\d+", text)
    return text[: found.start()] + str(int(found[0]) + 3) + text[found.end() :] if found else None


def _swap(name: str, where: str = "") -> Callable[[str], str | None]:
    swaps = [swap.strip().split("/") for swap in SWAPS[name].split(",")]

    def plant(text: str) -> str | None:
        """The first of the words that is there, replaced where it comes first."""
        for there, instead in swaps:
            if found := re.search(rf"(?<!\w){there}(?!\w){where}", text):
                return text[: found.start()] + instead + text[found.end() :]
        return None

    return plant


FAULTS: dict[str, Callable[[str], str | None]] = {
    "numbers": numbers, "references": references, "negation": _swap("negation"),
    "bounds": _swap("bounds", BESIDE_A_NUMBER), "duty": _swap("duty")}
"""The check that should object -> the true answer with a fault, or None where it has no place for one."""
