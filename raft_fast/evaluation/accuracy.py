"""The jury's part of evaluation.json: accuracy of both models, and how far the judges agree."""

from pathlib import Path
from typing import Any

from raft_fast.evaluation.compare import MODELS
from raft_fast.evaluation.exam import Answers
from raft_fast.evaluation.jury import Ballot, Jury, agreement, failures
from raft_fast.evaluation.statistics import Pair, paired_change, paired_p, share
from raft_fast.run.files import write_jsonl
from raft_fast.run.progress import Reporter

METRIC = "jury"  # in evaluation.json among the metrics of a part
FILE = "jury.jsonl"  # every ballot
Result = dict[str, Any]


def add_accuracy(result: Result, answers: dict[str, Answers], jury: Jury, output_dir: Path,
                 reporter: Reporter) -> Result:
    """`result` of `compare` with the jury's accuracy among the metrics of every part, and with `jury`:
    who judged, how far they agree, which votes are missing. Ballots go to `output_dir`/jury.jsonl."""
    ballots: dict[tuple[str, str], list[Ballot | None]] = {}
    parts = list(answers["base"].domains)
    for model in MODELS:
        for part in parts:
            records = answers[model].domains[part].records
            with reporter.phase(f"jury {model}: {part}", len(records), "answers") as advance:
                ballots[model, part] = jury.hold(records)
                advance(len(records))
    write_jsonl((_line(model, part, record, ballot) for (model, part), held in ballots.items()
                 for record, ballot in zip(answers[model].domains[part].records, held, strict=True)),
                output_dir / FILE)
    every = [ballot for held in ballots.values() for ballot in held]
    judged = {part: result[part] | {"metrics": result[part]["metrics"] | {
        METRIC: _metric(*(ballots[model, part] for model in MODELS))}} for part in parts}
    return result | judged | {METRIC: jury.about() | {
        "agreement": agreement(every), "missing_votes": failures(every),
        "not_judged": {model: sum(ballot is None or ballot.correct is None for part in parts
                                  for ballot in ballots[model, part]) for model in MODELS}}}


def parts_of(ballots: list[Ballot | None]) -> list[Pair | None]:
    """(1 or 0, 1) for every answer that the jury decided on."""
    return [None if one is None or one.correct is None else (float(one.correct), 1.0) for one in ballots]


def _metric(base: list[Ballot | None], trained: list[Ballot | None]) -> Result:
    left, right = parts_of(base), parts_of(trained)
    before, after = (share([bool(pair[0]) for pair in side if pair]) for side in (left, right))
    return {"base": before, "trained": after, "change": paired_change(left, right),
            "p": paired_p(left, right), "higher_is_better": True}


def _line(model: str, part: str, record: Result, ballot: Ballot | None) -> Result:
    told = ballot.as_json() if ballot is not None else {"correct": None, "votes": []}
    return {"suite": part, "model": model, "row_id": record["row_id"], **told}
