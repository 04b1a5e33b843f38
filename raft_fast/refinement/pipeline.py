"""Stage 1 as one function: rows with gold answers in, files with training answers out."""

import json
import re
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Row
from raft_fast.data.neighbours import SentenceEncoder
from raft_fast.engines import Sampling
from raft_fast.engines.activity import Activity
from raft_fast.engines.at_once import at_once
from raft_fast.engines.journal import Journal
from raft_fast.engines.prompting import Prompts, load_prompts
from raft_fast.refinement.decisions import Decision, decide
from raft_fast.refinement.filter import Filter
from raft_fast.refinement.fuse import Fusion
from raft_fast.refinement.likelihood import Likelihoods, why_not
from raft_fast.refinement.outputs import PARTIAL_REFINED, Outputs
from raft_fast.refinement.retrieval import GoldIndex
from raft_fast.refinement.rewrite import rewrite
from raft_fast.refinement.roles import Part, Roles
from raft_fast.refinement.summary import settings
from raft_fast.run import errors
from raft_fast.run.options import RefineOptions
from raft_fast.run.progress import Reporter

RUNS = "runs.jsonl"
BLOCK_ROWS = 1024  # rows that go through the parts together: enough to batch, few enough to hold
LEAST_ROWS = 128  # of a block where there are few rows: enough for a batch of like lengths
BLOCKS_AT_ONCE = 4  # so that engines have work while one block is filtered or nears its end


def refine(
    rows: Collection[Row], options: RefineOptions, roles: Roles, encoder: SentenceEncoder,
    output_dir: Path, reporter: Reporter, *, seed: int = 0, total_rows: int | None = None,
    retry_failed: bool = False, golds: GoldIndex | None = None, data: str | None = None,
) -> dict[str, Any]:
    """Eqs. 1-4 over all rows, in order, a few blocks of them in memory; returns the summary.

    Writes refined.parquet, decisions.jsonl and summary.json into `output_dir`, where the journal
    lives too: called again, only what is missing is asked for. Stopped, it leaves the rows that are
    decided under partial names. `total_rows` is how many rows there were before a slice was taken.
    `golds` is what `index_golds` made of the rows, those of other shards included; without it there is
    no check `retrieval`. `data` is a hash of all rows, for the summary. Raises UserError for an engine
    that cannot be reached or gives nothing usable, and where another process works in `output_dir`.
    """
    prompts = load_prompts(options.prompts)
    about = settings(options, roles, prompts, seed) | {"data": data}
    total = len(rows) if total_rows is None else total_rows
    with (
        Journal(output_dir, retry_failed) as journal,
        _timed(journal),
        Outputs(output_dir, about, total) as outputs,
        reporter.phase("refine", len(rows), "rows") as advance,
    ):
        for line in notices(journal, roles):
            reporter.say(line)
        activity = Activity(engine for engine in (roles.rewriter, roles.fuser, *roles.judges) if engine)
        advance(0, note=activity.note)
        checks = Filter.of(options, encoder, golds)
        stage = Stage.of(options, roles, checks, prompts, journal, activity, seed)
        begun: deque[list[Row]] = deque()

        def stop(why: BaseException) -> None:
            journal.stop(why)
            if isinstance(why, Exception):
                reporter.say("stopping: waiting for replies in flight, which are paid for (Ctrl-C does not)")

        try:
            blocks = _noted(_blocks(rows), begun)
            for decisions in at_once(stage.decide, blocks, BLOCKS_AT_ONCE, stop):
                with errors.uninterrupted():  # a block that is half written could not be told from a new one
                    for decision in decisions:
                        outputs.add(decision.as_json())
                    count = len(begun.popleft())
                    found = 0 if activity.fresh else count  # all that came before was in the journal
                    advance(count - found, note=activity.note, found=found)
        except (KeyboardInterrupt, errors.Stopped):
            reporter.say("stopping: writing the rows that are decided (again to leave at once)")
            journal.replay()
            for decision in stage.decide([row for block in begun for row in block]):
                if decision.whole:
                    outputs.add(decision.as_json())
            reporter.say(f"{outputs.tally.rows:,} of {len(rows):,} rows are decided and in "
                         f"{output_dir / PARTIAL_REFINED}")
            raise
        stage.must_have_worked()
    return outputs.summary(finished=True)


@dataclass(frozen=True)
class Stage:
    """Everyone who has a part in deciding a row."""

    options: RefineOptions
    rewriter: Part
    fuse: Fusion | None
    filter: Filter
    prompts: Prompts
    sampling: Sampling
    likelihoods: Likelihoods | None

    @classmethod
    def of(
        cls, options: RefineOptions, roles: Roles, checks: Filter, prompts: Prompts,
        journal: Journal, activity: Activity, seed: int,
    ) -> "Stage":
        """The stage that the options ask for. All parts answer through one journal."""
        sampling = Sampling(options.rewrite_max_new_tokens, options.rewrite_temperature, seed)
        rewriter = Part("--rewriter", roles.rewriter, journal, activity.listener("rewrite"))
        fuse = None
        if options.fusion_rounds and roles.fuser is not None:
            fuser = Part("--fuser", roles.fuser, journal, activity.listener("fuse"))
            judges = [Part("--judge", engine, journal, activity.listener("judge"))
                      for engine in roles.judges]
            fuse = Fusion(fuser, judges, checks, prompts, options, sampling)
        likelihoods = None
        if why_not(roles.rewriter, options.supervision_gap) is None:
            likelihoods = Likelihoods(roles.rewriter, journal, activity.listener("nll"))
        return cls(options, rewriter, fuse, checks, prompts, sampling, likelihoods)

    def decide(self, rows: Sequence[Row]) -> list[Decision]:
        """Eqs. 1-4 for a block of rows."""
        rewrites = rewrite(rows, self.rewriter, self.sampling, self.prompts.rewrite)
        filtered = self.filter.rewrites(rows, rewrites, self.prompts.rewrite)
        passed = [one for one in filtered if one.passed] if self.fuse is not None else []
        rounds = iter(self.fuse(passed) if self.fuse is not None else [])
        asked = {id(one) for one in passed}
        decisions = [decide(one, next(rounds) if id(one) in asked else [], self.options.fused_least)
                     for one in filtered]
        return decisions if self.likelihoods is None else self.likelihoods(decisions)

    def must_have_worked(self) -> None:
        """Raises UserError for an engine all of whose replies failed."""
        parts = [self.rewriter]
        if self.fuse is not None:
            parts += [self.fuse.fuser, *self.fuse.judges]
        for part in parts:
            part.must_have_worked()


def notices(journal: Journal, roles: Roles) -> Iterator[str]:
    """What a user should know before the first request."""
    if journal.damaged:
        yield (f"{journal.path}: {journal.damaged} lines cannot be read; what they held is asked for "
               "again")
    chosen = any(engine is not roles.rewriter for engine in (roles.fuser, *roles.judges))
    kin = [] if roles.fuser is None else [
        judge.identity for judge in roles.judges if family(judge.identity) == family(roles.fuser.identity)]
    if kin and chosen:  # that one model plays all parts by default is said in the report
        yield (f"--judge {', '.join(kin)} is of the fuser's family: models prefer their own words; "
               "choose judges of other families")


def family(identity: str) -> str:
    """What models of one family share: the letters that a name with a version or size begins with (qwen
    of Qwen3-32B). A name without a number is a family of its own: acme-judge is no kin of acme-fuser."""
    name = identity.split("@")[0].split(" ")[0].rsplit("/")[-1].lower()
    letters = re.split(r"[^a-z]", name)[0]
    return letters if letters and re.search(r"\d", name) else name


def _blocks(rows: Collection[Row]) -> Iterator[list[Row]]:
    """All rows in blocks; few rows are cut small enough that several blocks are under way."""
    coming = iter(rows)
    size = min(BLOCK_ROWS, max(LEAST_ROWS, -(-len(rows) // BLOCKS_AT_ONCE)))
    while block := list(islice(coming, size)):
        yield block


def _noted(blocks: Iterator[list[Row]], begun: deque[list[Row]]) -> Iterator[list[Row]]:
    for block in blocks:
        begun.append(block)
        yield block


@contextmanager
def _timed(journal: Journal) -> Iterator[None]:
    """A line in runs.jsonl: what this run took, apart from the files that are alike for every run."""
    start, finished = time.perf_counter(), False
    try:
        yield
        finished = True
    finally:
        line = {"finished": finished, "seconds": round(time.perf_counter() - start, 3),
                "asked": journal.asked, "cached": journal.cached, "failed": journal.failed}
        with (journal.path.parent / RUNS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
