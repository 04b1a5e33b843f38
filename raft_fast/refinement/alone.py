"""Stage 1 as a command of its own: raw rows in, a folder of refined rows out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Rejected, Row, Table, fingerprint_rows, pick, read_table
from raft_fast.data.rows import OnDisk
from raft_fast.data.screening import screen
from raft_fast.engines.asking import load_prompts
from raft_fast.refinement import outputs
from raft_fast.refinement.bench import Stage1, build_roles
from raft_fast.refinement.golds import index_golds
from raft_fast.refinement.pipeline import refine
from raft_fast.refinement.summary import REASONS
from raft_fast.run.errors import UserError
from raft_fast.run.files import write_jsonl, write_yaml
from raft_fast.run.folder import defaults
from raft_fast.run.options import DataOptions, RefineRunOptions, Stage1Options
from raft_fast.run.progress import Reporter


def open_raw(data: DataOptions, reporter: Reporter) -> Table:
    """The rows of --data. Raises UserError without --data, or if the rows are refined."""
    if not data.data:
        raise UserError("--data is missing: name a .jsonl, .parquet or .csv file or a `datasets` "
                        "name, as in python -m raft_fast.refine --data rows.jsonl")
    with reporter.phase("read rows", unit="rows") as advance:
        table = read_table(data.data, data.max_bad_rows, rows=OnDisk(), advance=advance)
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
    return pick(rows, range(len(rows))[number - 1 :: of])


def set_aside(rejected: list[Rejected], dry_run: bool) -> str:
    """How many rows cannot be used, and the most frequent reasons; a dry run writes them nowhere."""
    if not rejected:
        return "0 set aside"
    reasons = Counter(one.reason for one in rejected).most_common(REASONS)
    told = "; ".join(f"{count} {reason}" for reason, count in reasons)
    return f"{len(rejected):,} set aside{'' if dry_run else ': rejected.jsonl'} ({told})"


def refine_rows(everyone: Table, total: int, stage: Stage1, options: Stage1Options,
                suites: Mapping[str, Any], folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Load the engines and refine the rows of this shard into the folder; returns the summary.

    `everyone` are the rows of all shards, which are screened and told apart as a whole; `total` is how many
    there were before a slice was taken. `suites` are those of `raft_fast.evaluation.ifbench`.
    """
    from raft_fast.engines.load import load_engine  # heavy: not for --help or a typo
    from raft_fast.models.load import load_encoder

    if (folder / "heldout.parquet").exists():
        raise UserError(f"--output_dir {folder}: holds a training run; name another folder")
    fingerprint = fingerprint_rows(everyone.rows)
    if options.how.shard is None and not options.how.overwrite:  # shards are compared when they are joined
        outputs.keep_finished(folder, options.flat(), defaults(options.groups), fingerprint,
                              load_prompts(options.refine.prompts).versions)
    write_yaml(options.flat(), folder / outputs.PARTIAL_CONFIG)
    write_jsonl(everyone.rejected, folder / "rejected.jsonl")
    with reporter.phase("load models"):
        roles = build_roles(options.refine, lambda spec: load_engine(
            spec, options.model, None, options.refine.refine_batch_size, options.engines))
        encoder = load_encoder(options.model)
    dropped, rejected = screen(everyone.rows, suites, options.screen, encoder, folder, reporter,
                      str(everyone.source))
    rows = pick(everyone.rows, sorted(set(range(len(everyone.rows))) - set(dropped)))
    write_jsonl([*everyone.rejected, *rejected], folder / "rejected.jsonl")
    golds = index_golds(rows, options.refine, encoder, folder, reporter)
    summary = refine(shard_of(rows, options.how), stage, roles, encoder, folder, reporter,
                     seed=options.data.seed, total_rows=total, retry_failed=options.how.retry_failed,
                     golds=golds, data=fingerprint)
    # config.yaml says how the finished files were made
    (folder / outputs.PARTIAL_CONFIG).replace(folder / outputs.CONFIG)
    if options.how.shard is not None:  # shards are calibrated together
        return summary
    with reporter.phase("calibrate"):
        return outputs.add_calibration(folder, encoder)
