"""How often each check objects to answers that say the same, and to answers that do not.

    python -m benchmarks.checks --left faq-en.jsonl --right faq.jsonl --decisions decisions.jsonl

Translations (`--left` and `--right`: rows with the same ids, field `a` the answer) say the same: all but
`language` are false alarms there. The hand-written answers of check_pairs.jsonl are right or wrong on
purpose. `--decisions` are a model's real rewrites; what is objected to there is for a reader to judge.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.measure import command
from raft_fast.engines import Reply
from raft_fast.refinement.checks import Case, check

HERE = Path(__file__).parent


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def objections(cases: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
    """How many of (question, gold, answer) each check objects to."""
    found: Counter[str] = Counter()
    total = 0
    for question, gold, answer in cases:
        total += 1
        told = check(Case(question, gold, Reply(answer)))
        found.update(name for name, reason in told.items() if reason is not None)
    return {"answers": total, "objections": dict(found.most_common())}


def main() -> None:
    """Print the counts and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--left", type=Path)
    parser.add_argument("--right", type=Path)
    parser.add_argument("--decisions", type=Path)
    args = parser.parse_args()
    pairs = read(HERE / "check_pairs.jsonl")
    wrong = [(name, pair["gold"], answer) for pair in pairs for name, answer in pair["bad"].items()]
    result: dict[str, Any] = {
        "command": command(),
        "hand-written, right": objections(("", pair["gold"], answer) for pair in pairs
                                          for answer in pair["good"]),
        "hand-written, wrong": {"answers": len(wrong), "found": sum(
            check(Case("", gold, Reply(answer)))[name] is not None for name, gold, answer in wrong)},
    }
    if args.left and args.right:
        other = {row["id"]: row for row in read(args.right)}
        result["translations"] = objections((row["q"], row["a"], other[row["id"]]["a"])
                                            for row in read(args.left))
    if args.decisions:
        result["a model's rewrites"] = objections(
            (line["prompt"][-1]["content"], line["gold"], line["rewrite"])
            for line in read(args.decisions) if line["rewrite"])
    print(json.dumps(result, indent=1))
    (HERE / "results" / "checks.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
