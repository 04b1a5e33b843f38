"""Stage 1 over all rows: the loop, and its callers: a training run, the command, an estimate (--dry_run)."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Data, Row, Table, fingerprint_rows, read_table, without
from raft_fast.data.screening import SentenceEncoder, screen
from raft_fast.engines.asking import at_once, load_prompts
from raft_fast.engines.journal import Journal
from raft_fast.refinement import bench, outputs
from raft_fast.refinement.bench import Roles, Stage1, Workbench
from raft_fast.refinement.candidates import Record
from raft_fast.run.errors import UserError, visible
from raft_fast.run.files import write_jsonl, write_yaml
from raft_fast.run.folder import only_process
from raft_fast.run.options import DataOptions, Options, RefineRunOptions, Stage1Options
from raft_fast.run.progress import Reporter

BLOCK_ROWS = 1024  # rows that go through the parts together: enough to batch, few enough to hold
LEAST_ROWS = 128  # of a block if there are few rows: enough for a batch of like lengths
BLOCKS_AT_ONCE = 4  # so that engines have work while one block is filtered or nears its end
CHARACTERS_A_TOKEN = 4.0  # of English; other languages have fewer
TOKENS_A_SCORE = 4  # {"score": 7}; a judge that thinks writes more

Answers = Callable[[Options], Stage1 | None]
"""A recipe's stage 1 under these options; None to train on the gold answers."""


def refine(rows: Collection[Row], stage: Stage1, roles: Roles, encoder: SentenceEncoder, output_dir: Path,
           reporter: Reporter, *, seed: int = 0, total_rows: int | None = None, retry_failed: bool = False,
           golds: bench.GoldIndex | None = None, data: str | None = None) -> dict[str, Any]:
    """A recipe's stage 1 over all rows, in order, a few blocks of them in memory; returns the summary.

    Writes refined.parquet, decisions.jsonl and summary.json into `output_dir`; called again, it asks only for
    what its journal lacks. Stopped, it leaves whole blocks under partial names. `total_rows`: before a slice
    was taken. `golds`: of all shards' rows (None: no check `retrieval`). `data`: a hash of all rows. Raises
    UserError for an engine that gives nothing usable, and if another process works in `output_dir`."""
    def stop() -> None:
        journal.stop()
        reporter.say("stopping: waiting for replies in flight, which are paid for (Ctrl-C again does not)")

    with Journal(output_dir, retry_failed) as journal:
        if journal.damaged:
            reporter.say(f"{journal.path}: {journal.damaged} lines cannot be read; what they held is "
                         "asked for again")
        workbench = Workbench.of(stage.options, roles, encoder, golds, journal, seed)
        about = outputs.settings(stage.options, roles, workbench.prompts, seed) | {"data": data}
        coming = iter(rows)  # few rows are cut small enough that several blocks are under way
        size = min(BLOCK_ROWS, max(LEAST_ROWS, -(-len(rows) // BLOCKS_AT_ONCE)))
        blocks = iter(lambda: list(islice(coming, size)), [])

        def lines() -> Iterator[Record]:
            decided = at_once(lambda block: stage.decide(block, workbench), blocks, BLOCKS_AT_ONCE, stop)
            with reporter.phase("refine", len(rows), "rows") as advance:
                for decisions in decided:
                    yield from (decision.as_json() for decision in decisions)
                    done = len(decisions) if journal.asked else 0  # before, all was in the journal
                    told = f"{journal.asked} replies, {journal.failed} failed"
                    advance(done, told, len(decisions) - done)
            for part in filter(None, (workbench.rewriter, workbench.fuser, *workbench.judges)):
                part.must_have_worked()

        return outputs.write(output_dir, lines(), about, total_rows or len(rows))


def answer_rows(data: Data, options: Options, original: Any, encoder: Any, run_dir: Path,
                reporter: Reporter, answers: Answers) -> list[Row]:
    """The training rows with the answer that --data_source asks for: the chosen one (ŷ), the filtered rewrite
    (ȳ) or the gold (y). Raw rows are refined in RUN/refine; `original` is the model of the engine `self`."""
    from raft_fast.engines.load import load_engine

    rows, stage = data.train, answers(options)
    if stage is not None and not data.refined:
        roles = bench.build_roles(stage.options, lambda spec: load_engine(
            spec, options.model, original, stage.options.refine_batch_size, options.engines))
        folder = run_dir / "refine"
        with only_process(folder):  # `python -m raft_fast.refine --output_dir RUN/refine` takes the same
            golds = bench.index_golds(rows, stage.options, encoder, folder, reporter)
            summary = refine(rows, stage, roles, encoder, folder, reporter, seed=options.data.seed,
                             total_rows=data.total, golds=golds)
            for line in outputs.outcome(summary):
                reporter.say(line)
        rows = read_table(str(folder / outputs.REFINED), None).rows
    return [replace(row, completion={
        "fused": row.completion, "rewrite": row.rewrite or row.gold, "gold": row.gold,
    }[options.train.data_source]) for row in rows]


def check_names(options: Options, run_dir: Path) -> None:
    """Raises UserError if a new run names a check or judges that it cannot use; a resumed run tells what has
    changed."""
    if not run_dir.exists():
        fused = options.train.data_source == "fused"
        bench.check_refinement(options.refine if fused else replace(options.refine, fusion_rounds=0))


def open_raw(data: DataOptions, reporter: Reporter) -> Table:
    """The rows of --data. Raises UserError without --data, or if the rows are refined."""
    if not data.data:
        raise UserError("--data is missing: name a .jsonl, .parquet or .csv file or a `datasets` "
                        "name, as in python -m raft_fast.refine --data rows.jsonl")
    with reporter.phase("read rows"):
        table = read_table(data.data, data.max_bad_rows)
    for note in table.notes:
        reporter.say(note)
    if table.refined:
        raise UserError(f"--data {data.data}: is refined already; train on it with "
                        "python -m raft_fast.train --data, or give the raw rows")
    return table


def shard_of(rows: Sequence[Row], how: RefineRunOptions) -> Sequence[Row]:
    """The rows of --shard, all without it. Raises UserError if a shard would be empty."""
    if how.shard is None:
        return rows
    number, of = map(int, how.shard.split("/"))
    if of > len(rows):
        raise UserError(f"--shard {how.shard}: there are only {len(rows)} rows; share them out over fewer")
    return rows[number - 1 :: of]


def refine_rows(everyone: Table, total: int, stage: Stage1, options: Stage1Options,
                suites: Mapping[str, Any], folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Load the engines and refine the rows of this shard into the folder; returns the summary. `everyone`:
    the rows of all shards, screened as a whole; `total`: how many there were before a slice was taken;
    `suites`: those of `raft_fast.evaluation.ifbench`."""
    from raft_fast.engines.load import load_engine  # heavy: not for --help or a typo
    from raft_fast.models.load import load_encoder

    if (folder / "heldout.parquet").exists():
        raise UserError(f"--output_dir {folder}: holds a training run; name another folder")
    with reporter.phase("load models"):
        roles = bench.build_roles(options.refine, lambda spec: load_engine(
            spec, options.model, None, options.refine.refine_batch_size, options.engines))
        encoder = load_encoder(options.model)
    data = fingerprint_rows(everyone.rows)
    if not options.how.overwrite:
        prompts, seed = load_prompts(options.refine.prompts), options.data.seed
        about = outputs.settings(options.refine, roles, prompts, seed) | {"data": data}
        outputs.keep_finished(folder, outputs.made(options.flat(), about))
    dropped, rejected = screen(everyone.rows, suites, options.screen, encoder, folder, reporter,
                               str(everyone.source))
    rows = without(everyone.rows, dropped)
    write_jsonl([*everyone.rejected, *rejected], folder / "rejected.jsonl")
    golds = bench.index_golds(rows, options.refine, encoder, folder, reporter)
    summary = refine(shard_of(rows, options.how), stage, roles, encoder, folder, reporter,
                     seed=options.data.seed, total_rows=total, retry_failed=options.how.retry_failed,
                     golds=golds, data=data)
    write_yaml(options.flat(), folder / outputs.CONFIG)  # how the finished files were made
    return summary


def show_estimate(rows: Sequence[Row], stage: Stage1, options: Stage1Options) -> None:
    """Print a request of every kind, and the most that stage 1 can ask of each engine (--dry_run). A text
    that is not there yet is taken to be as long as the gold answer."""
    prompts, longest = load_prompts(options.refine.prompts), stage.options.rewrite_max_new_tokens
    for option, (times, messages) in stage.requests(next(iter(rows)), stage.options, prompts).items():
        if times:
            print(f"--- {option[2:]}", *(visible(f"[{turn['role']}] {turn['content']}") for turn in messages),
                  sep="\n")
    asked: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for option, (times, messages) in stage.requests(row, stage.options, prompts).items():
            read = sum(_tokens(turn["content"]) for turn in messages)
            written = TOKENS_A_SCORE if option == "--judge" else min(_tokens(row.gold), longest)
            asked[option].update(requests=times, read=times * read, written=times * written)
    engines = [(option, spec, asked[option]) for option, spec in bench.named_engines(options.refine)]
    most, least = sum(each["requests"] for *_, each in engines), asked["--rewriter"]["requests"]
    print(f"---\n{len(rows):,} rows; at most {most:,} requests, at least {least:,} (no rewrite passes)\n"
          f"{'':<12}{'requests':>12}{'prompt':>16}{'written':>16}")
    for option, spec, each in engines:
        print(f"{option:<12}{each['requests']:>12,}{each['read']:>16,}{each['written']:>16,}  {spec}")
    print(f"guessed from {CHARACTERS_A_TOKEN:g} characters a token, rewrites and fusions as long as gold "
          "answers; journal.jsonl is used before asking")


def _tokens(text: str) -> int:
    return round(len(text) / CHARACTERS_A_TOKEN)
