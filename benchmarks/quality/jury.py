"""A jury's verdicts beside every point's raw answers: made once for each jury, added to finished cells too.

    cells/<cell>/point-000012.jury.json    who judged, every vote, and the verdicts as values of the point
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.quality.disk import read_json, read_lines, verdicts_path
from raft_fast.evaluation.accuracy import parts_of
from raft_fast.evaluation.exam import DOMAINS
from raft_fast.evaluation.jury import Jury, krippendorff_alpha
from raft_fast.run.files import write_json
from raft_fast.run.progress import Reporter

Record = dict[str, Any]


def judge_answers(answers: Iterable[Path], jury: Jury, reporter: Reporter) -> None:
    """Judge the domain answers in each generations.jsonl that this jury has not judged yet."""
    for path in answers:
        about = jury.about() | {"answers": hashlib.sha256(path.read_bytes()).hexdigest()}
        target = verdicts_path(path)
        if target.is_file() and read_json(target)["about"] == about:
            continue
        records = read_lines(path)
        values, votes = {}, []
        for part in DOMAINS:
            asked = [record for record in records if record["suite"] == part]
            if not asked:
                continue
            with reporter.phase(f"jury: {path.parent.name}, {part}", len(asked), "answers") as advance:
                ballots = jury.hold(asked)
                advance(len(asked))
            values[f"{part}.jury"] = parts_of(ballots)
            votes += [ballot.votes for ballot in ballots if ballot is not None]
        write_json({"about": about, "values": values, "votes": votes}, target)


def agreement_of(answers: Iterable[Path], jury: Jury) -> Record:
    """Who judged, and how far they agree over all points."""
    votes = [one for path in answers if verdicts_path(path).is_file()
             for one in read_json(verdicts_path(path))["votes"] if len(one) > 1]
    return jury.about() | {
        "answers": len(votes), "krippendorff_alpha": krippendorff_alpha(votes),
        "unanimous": sum(len(set(one)) == 1 for one in votes) / len(votes) if votes else None}
