"""Stage 1 as one function: rows with gold answers in, files with training answers out."""

from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Row
from raft_fast.data.screening import SentenceEncoder
from raft_fast.engines.asking import at_once
from raft_fast.engines.journal import Journal
from raft_fast.refinement.bench import GoldIndex, Roles, Stage1, Workbench
from raft_fast.refinement.candidates import Decision, Record
from raft_fast.refinement.outputs import write
from raft_fast.refinement.summary import settings
from raft_fast.run.progress import Reporter

BLOCK_ROWS = 1024  # rows that go through the parts together: enough to batch, few enough to hold
LEAST_ROWS = 128  # of a block if there are few rows: enough for a batch of like lengths
BLOCKS_AT_ONCE = 4  # so that engines have work while one block is filtered or nears its end


def refine(
    rows: Collection[Row], stage: Stage1, roles: Roles, encoder: SentenceEncoder,
    output_dir: Path, reporter: Reporter, *, seed: int = 0, total_rows: int | None = None,
    retry_failed: bool = False, golds: GoldIndex | None = None, data: str | None = None,
) -> dict[str, Any]:
    """A recipe's stage 1 over all rows, in order, a few blocks of them in memory; returns the summary.

    Writes refined.parquet, decisions.jsonl and summary.json into `output_dir`, beside the journal: called
    again, it asks only for what is missing. Stopped, it leaves whole blocks under partial names.
    `total_rows`: before a slice was taken. `golds`: of all rows, those of other shards included (None: no
    check `retrieval`). `data`: a hash of all rows, for the summary. Raises UserError for an engine that
    cannot be reached or gives nothing usable, and if another process works in `output_dir`.
    """
    def decide(block: list[Row]) -> list[Decision]:
        return stage.decide(block, bench)

    def stop() -> None:
        journal.stop()
        reporter.say("stopping: waiting for replies in flight, which are paid for (Ctrl-C again does not)")

    with Journal(output_dir, retry_failed) as journal:
        if journal.damaged:
            reporter.say(f"{journal.path}: {journal.damaged} lines cannot be read; what they held is "
                         "asked for again")
        bench = Workbench.of(stage.options, roles, encoder, golds, journal, seed)
        about = settings(stage.options, roles, bench.prompts, seed) | {"data": data}
        coming = iter(rows)  # few rows are cut small enough that several blocks are under way
        size = min(BLOCK_ROWS, max(LEAST_ROWS, -(-len(rows) // BLOCKS_AT_ONCE)))
        blocks = iter(lambda: list(islice(coming, size)), [])

        def lines() -> Iterator[Record]:
            with reporter.phase("refine", len(rows), "rows") as advance:
                for decisions in at_once(decide, blocks, BLOCKS_AT_ONCE, stop):
                    yield from (decision.as_json() for decision in decisions)
                    done = len(decisions) if journal.asked else 0  # before, all was in the journal
                    told = f"{journal.asked} replies, {journal.failed} failed"
                    advance(done, told, len(decisions) - done)
            for part in filter(None, (bench.rewriter, bench.fuser, *bench.judges)):
                part.must_have_worked()

        return write(output_dir, lines(), about, total_rows or len(rows))
