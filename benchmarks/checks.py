"""How often each check objects to answers that say the same, and to answers that do not.

    python -m benchmarks.checks

Harmless are the 503 answers of zaragoza-construction-faq in English and Swedish, each against its human
translation (`language` is right to object there and left out), and the hand-written paraphrases of
check_pairs.jsonl. Wrong are that file's wrong answers, and true answers with one fault planted by
`benchmarks.faults`. `--decisions FILE` adds a model's real rewrites; what is objected to there is for a
reader to judge.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.faults import FAULTS
from benchmarks.measure import command, results_root
from raft_fast.engines import Reply
from raft_fast.refinement.checks import CHECKS, Case, Checker
from raft_fast.run.fetch import quickstart_rows
from raft_fast.run.options import RefineOptions

HERE = Path(__file__).parent
CHECK = Checker.of(RefineOptions(check_patterns="legal_references"))
NAMES = [*CHECKS, *CHECK.patterns]
LONG = [  # texts of these alone are what takes checks the longest
    "1", "1,234 ", "1 234 ", "1.", " ", "\n", "a", "Ab1 ", "House and of ", "not ", "n't ",
    "| 1 | 2.5 m |\n", "[", '"', "<think>",
    "<|a|>", "\u00a7 5 ", "1 January 2020 ", "12:30 ", "5-10 mm ", "\u623f", "a\u0301\u0300", "-", "#",
    "> ", "at most 5 m at least 3 m ",
    "must not be ", "one year and a half ", "twenty ", "1/2 ", "1) a ", "- 1. a\n", "It is not so. ",
    "ab 5 ", "the house stands by it ", ".", "!", "?", ":", ";", ",", "(", ")", "*", "/", "\t", "\u2013", "=",
    "_", "'", "%", "`", "\u00bd", ". ", "- ", "( ", "\n ", "a.", "a-", "no ", "no, ",
]
ENDS = (" 5", "A")  # what may come after all of it: a run that ends in no space is where searches fail
NONE = {"faults": 0, "caught": 0}
Pair = tuple[str, str, str]
"""(question, gold, answer)"""


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--decisions", type=Path)
    args = parser.parse_args()
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
    if args.decisions:
        rewrites = [line for line in read(args.decisions) if line["rewrite"]]
        result["a model's rewrites"] = objections(
            (line["prompt"][-1]["content"], line["gold"], line["rewrite"]) for line in rewrites)
        print(json.dumps(result["a model's rewrites"], indent=1))
    print(table(result))
    (results_root() / "checks.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
