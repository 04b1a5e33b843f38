"""Accuracy by a jury, as the paper measures it: every judge votes on whether an answer agrees with the gold
answer, and the majority decides.

    python examples/jury.py EVALUATION_FOLDER MODEL@URL [MODEL@URL ...]

EVALUATION_FOLDER is a run, or what `python -m raft_fast.evaluate` wrote: its generations.jsonl has both
models' answers. Judges are asked blind and once, through EVALUATION_FOLDER/jury/journal.jsonl. A vote that is
missing is no vote, a tie is no majority, and an answer with the votes of half the judges is not judged.
"""

import json
import sys
from pathlib import Path

from raft_fast.data.dataset import Row
from raft_fast.engines.asking import Part, load_prompt
from raft_fast.engines.journal import Journal
from raft_fast.engines.openai import OpenAIEngine
from raft_fast.evaluation.scores import compare_pairs, share
from raft_fast.refinement.parts import verdicts
from raft_fast.run.errors import entry
from raft_fast.run.options import EngineOptions


def correct(scores: list[float | None], judges: int) -> bool | None:
    """The majority of the votes there are (yes: above one half); None without votes of most judges."""
    votes = [score > 0.5 for score in scores if score is not None]
    return sum(votes) > len(votes) / 2 if len(votes) > judges / 2 else None


def held(folder: Path, judges: list[Part]) -> dict:
    """The share of right answers of both models, with the change and its interval; writes jury.jsonl."""
    lines = (folder / "generations.jsonl").read_text(encoding="utf-8").splitlines()
    records = [one for one in map(json.loads, lines) if one["suite"] == "domain" and one["error"] is None]
    asked = [one for one in records if one["answer"].strip()]
    said = verdicts([Row(one["row_id"], one["prompt"], "", gold=one["gold"]) for one in asked],
                    [one["answer"] for one in asked], judges, load_prompt("jury"))
    found = {id(one): correct([vote.score for vote in votes], len(judges))
             for one, votes in zip(asked, said, strict=True)}
    for one in records:
        one["correct"] = found.get(id(one), False)  # an empty answer is wrong without asking
    (folder / "jury.jsonl").write_text("".join(json.dumps(
        {name: one[name] for name in ("model", "row_id", "correct")}) + "\n" for one in records))
    by_model = {model: {one["row_id"]: one["correct"] for one in records if one["model"] == model}
                for model in ("base", "trained")}
    rows = sorted({*by_model["base"], *by_model["trained"]})
    base, trained = ([None if (right := known.get(row)) is None else (float(right), 1.0) for row in rows]
                     for known in by_model.values())
    for judge in judges:
        judge.must_have_worked()
    return compare_pairs(base, trained, share)


@entry
def main() -> None:
    folder = Path(sys.argv[1])
    with Journal(folder / "jury") as journal:
        judges = [Part("judge", OpenAIEngine(spec, EngineOptions()), journal) for spec in sys.argv[2:]]
        print(json.dumps(held(folder, judges), indent=2))


if __name__ == "__main__":
    main()
