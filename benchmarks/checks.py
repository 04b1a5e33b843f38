"""How often each check objects to answers that say the same, and to answers that do not.

    python -m benchmarks.checks

Harmless are the 503 answers of zaragoza-construction-faq in English and Swedish, each against its human
translation (`language` is right to object there and left out), and the hand-written paraphrases of
check_pairs.jsonl. Wrong are that file's wrong answers, and true answers with one fault planted, one a kind.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.measure import command, parser, results_root
from raft_fast.engines import Reply
from raft_fast.refinement.checks import CHECKS, Case, Checker, load_patterns
from raft_fast.refinement.checks.numbers import locate
from raft_fast.run.fetch import quickstart_rows
from raft_fast.run.options import RefineOptions

HERE = Path(__file__).parent
CHECK = Checker.of(RefineOptions(check_patterns="legal_references"))
NAMES = [*CHECKS, *CHECK.patterns]
NONE = {"faults": 0, "caught": 0}
Pair = tuple[str, str, str]
"""(question, gold, answer)"""


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
    for one in locate(LAW.without(text)):
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


def objections(pairs: Iterable[Pair]) -> dict[str, Any]:
    """How many answers each check objects to."""
    found: Counter[str] = Counter()
    total = 0
    for question, gold, answer in pairs:
        total += 1
        told = CHECK(Case(question, gold, Reply(answer)))
        found.update(name for name, reason in told.items() if reason is not None)
    return {"answers": total, "objections": dict(found.most_common())}


def caught(wrong: Iterable[tuple[str, Pair]]) -> dict[str, dict[str, int]]:
    """Of (the check that should object, an answer with a fault): by check, how many it did object to."""
    counts: dict[str, dict[str, int]] = {}
    for name, (question, gold, answer) in wrong:
        count = counts.setdefault(name, dict(NONE))
        count["faults"] += 1
        count["caught"] += CHECK(Case(question, gold, Reply(answer)))[name] is not None
    return counts


def planted(rows: Iterable[dict[str, Any]]) -> Iterable[tuple[str, Pair]]:
    """Every fault that there is a place for, one at a time."""
    for row in rows:
        for name, plant in FAULTS.items():
            if (answer := plant(row["answer"])) is not None:
                yield name, (row["question"], row["answer"], answer)


def table(result: dict[str, Any]) -> str:
    """A line a check: false alarms on harmless answers, faults found."""
    columns = ("translations", "paraphrases", "planted", "written")
    lines = ["".join([f"{'check':<11}", *(f"{name:>20}" for name in columns)])]
    for name in NAMES:
        cells = [f"{name:<11}"]
        for column in columns:
            part = result[column]
            count = (part["objections"].get(name, 0), part["answers"]) if "objections" in part \
                else (part.get(name, NONE)["caught"], part.get(name, NONE)["faults"])
            meant = count[1] and (name, column) != ("language", "translations")
            cells.append(f"{f'{count[0]} of {count[1]} ({count[0] / count[1]:.1%})' if meant else '-':>20}")
        lines.append("".join(cells))
    return "\n".join(lines)


def main() -> None:
    """Print the table and write JSON."""
    parser(__doc__).parse_args()
    pairs = read(HERE / "check_pairs.jsonl")
    english, swedish = read(quickstart_rows("en")), read(quickstart_rows("sv"))
    answers = [{row["id"]: row["answer"] for row in rows} for rows in (swedish, english)]
    translated = ((row["question"], row["answer"], other[row["id"]])
                  for rows, other in zip((english, swedish), answers, strict=True) for row in rows)
    result: dict[str, Any] = {
        "command": command(),
        "translations": objections(translated),
        "paraphrases": objections(("", pair["gold"], answer) for pair in pairs for answer in pair["good"]),
        "planted": caught(planted([*english, *swedish])),
        "written": caught((name, ("", pair["gold"], answer))
                          for pair in pairs for name, answer in pair["bad"].items()),
    }
    print(table(result))
    (results_root() / "checks.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
