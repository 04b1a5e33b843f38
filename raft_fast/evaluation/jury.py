"""Accuracy by a jury: every judge says whether an answer gives the gold answer, the majority decides.

As the paper measures domain accuracy. Judges are engines of stage 1 and are asked as there: through the
journal (asked once, ever), all at the same time, blind to which model answered. A judge that gives no
score has no vote; with fewer votes than the quorum an answer is not judged. A tie is no majority.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Row
from raft_fast.engines import Engine
from raft_fast.engines.asking import Part, Prompt, load_prompt
from raft_fast.engines.journal import Journal
from raft_fast.refinement.bench import load_judges
from raft_fast.refinement.candidates import Verdict
from raft_fast.refinement.parts import verdicts
from raft_fast.run.options import JuryOptions

CERTAIN = 0.5  # a score above it says yes
FOLDER = "jury"  # beside evaluation.json: the journal with every judge's raw reply
Record = dict[str, Any]


@dataclass(frozen=True)
class Ballot:
    """What the judges said of one answer. An answer that says nothing is wrong without being asked about."""

    verdicts: list[Verdict]
    quorum: int
    empty: bool = False

    @property
    def votes(self) -> list[bool]:
        """A missing vote is missing, not a no."""
        return [one.score > CERTAIN for one in self.verdicts if one.score is not None]

    @property
    def correct(self) -> bool | None:
        """The majority of the votes; None where they are fewer than the quorum."""
        if self.empty:
            return False
        return sum(self.votes) > len(self.votes) / 2 if len(self.votes) >= self.quorum else None

    def as_json(self) -> Record:
        """A line of jury.jsonl without what the answer was; `key` finds the raw reply in the journal."""
        return {"correct": self.correct, "votes": [
            {"judge": one.judge, "score": one.score, "error": one.error, "key": one.key,
             "yes": None if one.score is None else one.score > CERTAIN} for one in self.verdicts]}


@dataclass(frozen=True)
class Jury:
    """Judges with the words they are asked in."""

    judges: Sequence[Part]
    prompt: Prompt
    quorum: int

    def hold(self, records: Sequence[Record]) -> list[Ballot | None]:
        """A ballot for every generation record (prompt, gold, answer); None for an answer that failed.

        Raises UserError where a judge never works.
        """
        ballots = [None if record["error"] is not None else Ballot([], self.quorum, empty=True)
                   for record in records]
        asked = [place for place, record in enumerate(records)
                 if record["error"] is None and record["answer"].strip()]
        if asked:
            rows = [Row(records[place]["row_id"], records[place]["prompt"], "", gold=records[place]["gold"])
                    for place in asked]
            said = verdicts(rows, [records[place]["answer"] for place in asked], self.judges, self.prompt)
            for place, found in zip(asked, said, strict=True):
                ballots[place] = Ballot(found, self.quorum)
            for one in self.judges:
                one.must_have_worked()
        return ballots

    def about(self) -> Record:
        """Who judged, and how."""
        return {"judges": [one.name for one in self.judges], "prompt": self.prompt.version,
                "quorum": self.quorum}


@contextmanager
def open_jury(options: JuryOptions, load: Callable[[str], Engine], folder: Path) -> Iterator[Jury | None]:
    """The jury that the options name, its journal in `folder`; None where they name none.

    Raises UserError for whatever `load` refuses, a judge named twice, and a prompt that cannot be used.
    """
    if not options.eval_judge:
        yield None
        return
    prompt = load_prompt("jury", options.eval_prompts, "--eval_prompts")
    engines = load_judges(options.eval_judge, options.eval_quorum, load, "--eval_judge")
    with Journal(folder) as journal:
        yield Jury([Part("--eval_judge", engine, journal) for engine in engines], prompt,
                   options.eval_quorum or len(engines) // 2 + 1)


def agreement(ballots: Sequence[Ballot | None]) -> Record:
    """How far the judges agree on the answers that at least two of them voted on."""
    votes = [one.votes for one in ballots if one is not None and len(one.votes) > 1]
    unanimous = sum(len(set(one)) == 1 for one in votes)
    return {"answers": len(votes), "unanimous": unanimous / len(votes) if votes else None,
            "krippendorff_alpha": krippendorff_alpha(votes)}


def krippendorff_alpha(units: Sequence[Sequence[Any]]) -> float | None:
    """Krippendorff's alpha for nominal values: 1 is full agreement, 0 that of chance; units are the
    values that were given to one thing, however many. None where nothing can disagree: no unit has two
    values, or all values are the same.
    """
    units = [unit for unit in units if len(unit) > 1]
    counts = Counter(value for unit in units for value in unit)
    total = counts.total()
    expected = sum(counts[left] * counts[right] for left, right in permutations(counts, 2))
    if not expected:
        return None
    observed = sum(sum(left != right for left, right in permutations(unit, 2)) / (len(unit) - 1)
                   for unit in units)
    return 1 - observed * (total - 1) / expected


def failures(ballots: Sequence[Ballot | None]) -> dict[str, int]:
    """Votes that each judge owes."""
    return dict(Counter(one.judge for ballot in ballots if ballot is not None
                        for one in ballot.verdicts if one.score is None))
