"""Accuracy by a jury: every judge votes on whether an answer agrees with the gold answer; majority decides.

As the paper measures domain accuracy. Judges are asked as in stage 1: through the journal (never twice), all
at the same time, blind to the model. A judge without a score has no vote; below the quorum an answer is not
judged. A tie is no majority.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from raft_fast.data.dataset import Row
from raft_fast.engines import Engine
from raft_fast.engines.asking import Part, Prompt, load_prompt
from raft_fast.engines.journal import Journal
from raft_fast.evaluation.scores import MODELS, Mean, Pair, Record, compare_pairs, share
from raft_fast.refinement.bench import load_judges
from raft_fast.refinement.candidates import Verdict
from raft_fast.refinement.parts import verdicts
from raft_fast.run.files import write_jsonl
from raft_fast.run.options import CompareOptions
from raft_fast.run.progress import Reporter

CERTAIN = 0.5  # a score above it is a yes
METRIC = "jury"  # in evaluation.json among the metrics of a part
FOLDER, FILE = "jury", "jury.jsonl"  # beside evaluation.json: the journal of raw replies; every ballot


@dataclass(frozen=True)
class Ballot:
    """The verdicts on one answer. An empty answer is wrong without asking, a failed one is not judged."""

    verdicts: Sequence[Verdict]
    quorum: int
    empty: bool = False

    @property
    def votes(self) -> list[bool]:
        """A missing vote is missing, not a no."""
        return [one.score > CERTAIN for one in self.verdicts if one.score is not None]

    @property
    def correct(self) -> bool | None:
        """The majority of the votes; None below the quorum."""
        enough = self.empty or len(self.votes) >= self.quorum
        return sum(self.votes) > len(self.votes) / 2 if enough else None


@dataclass(frozen=True)
class Jury:
    judges: Sequence[Part]
    prompt: Prompt
    quorum: int

    def hold(self, records: Sequence[Record]) -> list[Ballot]:
        """A ballot for every record of generations.jsonl. Raises UserError if a judge never works."""
        asked = [one for one in records if one["error"] is None and one["answer"].strip()]
        said = verdicts([Row(one["row_id"], one["prompt"], "", gold=one["gold"]) for one in asked],
                        [one["answer"] for one in asked], self.judges, self.prompt)
        for judge in self.judges:
            judge.must_have_worked()
        found = {id(one): Ballot(votes, self.quorum) for one, votes in zip(asked, said, strict=True)}
        return [found.get(id(one)) or Ballot([], self.quorum, empty=one["error"] is None) for one in records]

    def about(self) -> Record:
        """The judges and how they were asked."""
        return {"judges": [one.name for one in self.judges], "prompt": self.prompt.version,
                "quorum": self.quorum}


@contextmanager
def open_jury(options: CompareOptions, load: Callable[[str], Engine], folder: Path) -> Iterator[Jury | None]:
    """The jury that the options name, its journal in `folder`; None if they name none.

    Raises UserError for whatever `load` refuses, a judge named twice, and an unusable prompt.
    """
    if not options.eval_judge:
        yield None
        return
    prompt = load_prompt("jury", options.prompts)
    engines = load_judges("--eval_judge", options.eval_judge, options.eval_quorum, load)
    with Journal(folder) as journal:
        yield Jury([Part("--eval_judge", engine, journal) for engine in engines], prompt,
                   options.eval_quorum or len(engines) // 2 + 1)


def add_accuracy(result: Record, answers: Mapping[str, Mapping[str, Sequence[Record]]], jury: Jury,
                 output_dir: Path, reporter: Reporter) -> None:
    """Adds to `result` (evaluation.json) accuracy among the metrics of every domain part, and `jury`: the
    judges, how often they all agree, missing votes. `answers` by model and part; ballots go to jury.jsonl."""
    ballots: dict[tuple[str, str], list[Ballot]] = {}
    parts = [part for part in answers["base"] if part != "general"]
    for model, part in product(MODELS, parts):
        with reporter.phase(f"jury {model}: {part}"):
            ballots[model, part] = jury.hold(answers[model][part])
    write_jsonl(({"suite": part, "model": model, "row_id": record["row_id"], "correct": ballot.correct,
                  "votes": [{"judge": one.judge, "score": one.score, "error": one.error, "key": one.reply.key}
                            for one in ballot.verdicts]}  # `key` finds the raw reply in the journal
                 for (model, part), held in ballots.items()
                 for record, ballot in zip(answers[model][part], held, strict=True)), output_dir / FILE)
    for part in parts:
        base, trained = (pairs_of(ballots[model, part]) for model in MODELS)
        result[part]["metrics"][METRIC] = compare_pairs(base, trained, share) | {"higher_is_better": True}
    every = [ballot for held in ballots.values() for ballot in held]
    result[METRIC] = jury.about() | {
        "unanimous": unanimous([ballot.votes for ballot in every])["mean"],
        "missing_votes": dict(Counter(one.judge for ballot in every for one in ballot.verdicts
                                      if one.score is None)),
        "not_judged": {model: sum(ballot.correct is None for (asked, _), held in ballots.items()
                                  for ballot in held if asked == model) for model in MODELS}}


def pairs_of(ballots: Sequence[Ballot]) -> list[Pair | None]:
    """(1 or 0, 1) for every answer that the jury decided on."""
    return [None if one.correct is None else (float(one.correct), 1.0) for one in ballots]


def unanimous(votes: Sequence[Sequence[bool]]) -> Mean:
    """The share of answers on which all judges agree, of those with at least two votes."""
    return share([(float(len(set(one)) == 1), 1.0) for one in votes if len(one) > 1])
