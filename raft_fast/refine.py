"""Stage 1 of RAFT: refine a domain's answers so that learning them bends the model less.

    python -m raft_fast.refine --data FILE --output_dir DIR

Rows are screened for near-duplicate questions and overlap with evaluation suites. Each answer is
rewritten by the model itself (Eq. 1), kept where it still says the same (Eqs. 2-3), merged with the
gold answer and judged (Eq. 4). DIR gets refined.parquet (trainable as it is), decisions.jsonl (what
was chosen for each row, and why), summary.json, screen.json, rejected.jsonl (rows set aside),
report.html, README.md (a dataset card) and config.yaml. Started again on the same DIR it
asks only for replies it does not have.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raft_fast.data import dataset
from raft_fast.data.screening import screen
from raft_fast.engines import Price
from raft_fast.engines.asking import load_prompts
from raft_fast.engines.load import check_engines
from raft_fast.evaluation.ifbench import cached_suites
from raft_fast.refinement import Roles, add_calibration, build_roles, index_golds, raft, refine
from raft_fast.refinement.bench import named_engines, skipped
from raft_fast.refinement.estimate import Estimate, estimate, told
from raft_fast.refinement.outputs import (
    CONFIG,
    PARTIAL_CONFIG,
    joining,
    keep_finished,
    merge,
    shard_folder,
    unfinished,
)
from raft_fast.refinement.summary import REASONS, outcome
from raft_fast.run import config
from raft_fast.run.errors import UserError, entry
from raft_fast.run.files import read_yaml, write_jsonl
from raft_fast.run.folder import defaults, only_process
from raft_fast.run.options import (
    CardOptions,
    DataOptions,
    EngineOptions,
    Groups,
    ModelOptions,
    RefineOptions,
    RefineRunOptions,
    ScreenOptions,
    ShowOptions,
)
from raft_fast.run.progress import Reporter
from raft_fast.run.terminal import visible

DESCRIPTION = ("Stage 1 of RAFT: rewrite, filter, fuse and judge the answers of --data. "
               "--output_dir defaults to refined/<name of the data>; started again on the same "
               "folder, only missing replies are asked for.")
GROUPS = [DataOptions, ModelOptions, EngineOptions, ScreenOptions, RefineOptions, RefineRunOptions,
          CardOptions]


@entry
def main() -> None:
    """Read the command line and do what it asks for: refine, refine a shard, join shards, say what
    refining would take, or show one row."""
    _, groups = config.parse("refine", DESCRIPTION, [*GROUPS, ShowOptions])
    *kept, show = groups  # what is shown is no part of the run's configuration
    options = Options(*kept)
    data, how, reporter = options.data, options.how, Reporter()
    if show.explain is not None:
        return explain_row(data, show.explain)
    if how.merge:
        return join_shards(options, reporter)
    check_engines(named_engines(options.refine))  # a mistake there shows before rows are read
    skipped(options.refine.skip_checks)  # a name that is wrong shows before rows are read
    rows = open_raw(data, reporter)
    everyone = rows.spread(data.max_rows, data.seed)
    mine = shard_of(everyone, how)  # too many shards show before models are loaded
    reporter.say(f"{data.data}: {len(everyone):,} of {len(rows) + len(rows.rejected):,} rows, "
                 + set_aside(rows.rejected, how.dry_run))
    if how.dry_run:
        return say_estimate(mine, options, reporter)
    folder = output_dir(data) if how.shard is None else shard_folder(output_dir(data), how.shard)
    with only_process(folder):  # before the first file is written: the other one may be reading it
        summary = run(everyone, len(rows), options, folder, reporter)
        finish(summary, folder, options.card, reporter)
    if how.shard is not None:
        if missing := unfinished(output_dir(data), folder):
            return reporter.say(f"shards still to be refined: {', '.join(missing)}")
        join_shards(options, reporter)


def join_shards(options: "Options", reporter: Reporter) -> None:
    """The shards' files become those of one run, calibrated with the encoder that they were made with."""
    folder = output_dir(options.data)
    from raft_fast.models.load import load_encoder  # heavy: not for --help or a typo

    with joining(folder):
        merge(folder, reporter)
        made = read_yaml(folder / CONFIG, "join the shards again")
        model = replace(options.model, **{key: made[key] for key in vars(options.model)
                                          if key.startswith("encoder")})
        with reporter.phase("calibrate"):
            summary = add_calibration(folder, load_encoder(model))
        finish(summary, folder, options.card, reporter)


@dataclass(frozen=True)
class Options(Groups):
    """Every option of the command that shapes what comes out."""

    data: DataOptions
    model: ModelOptions
    engines: EngineOptions
    screen: ScreenOptions
    refine: RefineOptions
    how: RefineRunOptions
    card: CardOptions


def run(
    everyone: dataset.RowFile, total: int, options: Options, folder: Path, reporter: Reporter,
) -> dict[str, Any]:
    """Load whom the options name and refine the rows of this shard into the folder; returns the summary.

    `everyone` are the rows of all shards: screened, and told apart, as a whole.
    """
    if (folder / "heldout.parquet").exists():
        raise UserError(f"--output_dir {folder}: holds a training run; name another folder")
    fingerprint = dataset.fingerprint_rows(everyone)
    if options.how.shard is None and not options.how.overwrite:  # shards of one kind join, others do not
        keep_finished(folder, options.flat(), defaults(options.groups), fingerprint,
                      load_prompts(options.refine.prompts).versions)
    config.to_yaml(options.groups, folder / PARTIAL_CONFIG)
    write_jsonl(everyone.rejected, folder / "rejected.jsonl")
    roles, encoder = load(options.model, options.engines, options.refine, reporter)
    screened = screen(everyone, cached_suites(), options.screen, encoder, folder, reporter,
                      str(everyone.source))
    everyone = everyone.without(screened.dropped)
    write_jsonl([*everyone.rejected, *screened.rejected], folder / "rejected.jsonl")
    rows = shard_of(everyone, options.how)
    golds = index_golds(everyone, options.refine, encoder, folder, reporter)
    summary = refine(rows, raft(options.refine), roles, encoder, folder, reporter, seed=options.data.seed,
                     total_rows=total, retry_failed=options.how.retry_failed, golds=golds, data=fingerprint)
    (folder / PARTIAL_CONFIG).replace(folder / CONFIG)  # says how the finished files were made, never others
    if options.how.shard is not None:  # shards are calibrated together
        return summary
    with reporter.phase("calibrate"):
        return add_calibration(folder, encoder)


def set_aside(rejected: list[dataset.Rejected], dry_run: bool) -> str:
    """How many rows cannot be used and the most frequent reasons; a dry run writes them nowhere."""
    if not rejected:
        return "0 set aside"
    reasons = Counter(one.reason for one in rejected).most_common(REASONS)
    told = "; ".join(f"{count} {reason}" for reason, count in reasons)
    return f"{len(rejected):,} set aside{'' if dry_run else ': rejected.jsonl'} ({told})"


def shard_of(rows: dataset.RowFile, how: RefineRunOptions) -> dataset.RowFile:
    """The rows that this start of the command refines. Raises UserError where a shard would have none."""
    if how.shard is None:
        return rows
    number, of = map(int, how.shard.split("/"))
    if of > len(rows):
        raise UserError(f"--shard {how.shard}: there are only {len(rows)} rows; share them out over fewer")
    return rows.shard(number, of)


def say_estimate(rows: dataset.RowFile, options: Options, reporter: Reporter) -> None:
    """--dry_run: a request of every kind, and how many there would be."""
    from raft_fast.engines.load import load_tokens  # heavy: not for --help or a typo

    stage, prompts = raft(options.refine), load_prompts(options.refine.prompts)
    engines = [Estimate(option, spec, load_tokens(spec, options.model), price(spec, options.engines))
               for option, spec in named_engines(options.refine)]
    for request in stage.requests(next(iter(rows)), stage.options, prompts):
        print(f"--- {request.task}")
        for turn in request.messages:
            print(visible(f"[{turn['role']}] {turn['content']}"))
    print("---")
    with reporter.phase("count", len(rows), "rows") as advance:
        estimates = estimate(rows, stage, prompts, engines, advance)
    print("\n".join(told(estimates, len(rows))))


def price(spec: str, engines: EngineOptions) -> Price | None:
    """What the server that `spec` names takes; None where nobody told, and in this process."""
    own = engines.of(spec, spec.rpartition("@http")[0])
    return Price(*own.prices) if own.prices and "://" in spec else None


def finish(summary: dict[str, Any], folder: Path, card: CardOptions, reporter: Reporter) -> None:
    """Say what came of it; write the data set's card and the report."""
    from raft_fast.report.cards import write_card
    from raft_fast.report.page import write_refine_report  # heavy: not for --help or a typo

    for line in outcome(summary):
        reporter.say(line)
    with reporter.phase("report"):
        write_card(folder, card.license, card.language)
        report = write_refine_report(folder)
    reporter.say(f"written to {folder}; report {report}")


def explain_row(data: DataOptions, row_id: str) -> None:
    """Print what stage 1 decided about one row. Loads no model."""
    from raft_fast.report.explain import explain

    if not data.output_dir and not data.data:
        raise UserError(f"--explain {row_id}: --output_dir is missing; name the folder that was "
                        "refined into")
    explain(output_dir(data), row_id)


def open_raw(data: DataOptions, reporter: Reporter) -> dataset.RowFile:
    """The rows of --data. Raises UserError where there is no --data or stage 1 is done already."""
    if not data.data:
        raise UserError("--data is missing: name a .jsonl, .parquet or .csv file or a `datasets` "
                        "name, as in python -m raft_fast.refine --data rows.jsonl")
    with reporter.phase("read rows", unit="rows") as advance:
        rows = dataset.open_rows(data.data, data.max_bad_rows, advance)
    for note in rows.notes:
        reporter.say(note)
    if rows.refined:
        raise UserError(f"--data {data.data}: is refined already; train on it with "
                        "python -m raft_fast.train --data, or give the raw rows")
    return rows


def load(
    model: ModelOptions, engines: EngineOptions, stage: RefineOptions, reporter: Reporter
) -> tuple[Roles, Any]:
    """The engines and the encoder that the options name."""
    from raft_fast.engines.load import load_engine  # heavy: not for --help or a typo
    from raft_fast.models.load import load_encoder

    with reporter.phase("load models"):
        roles = build_roles(
            stage, lambda spec: load_engine(spec, model, None, stage.refine_batch_size, engines))
        return roles, load_encoder(model)


def output_dir(data: DataOptions) -> Path:
    """--output_dir, or refined/<name of the data>."""
    return Path(data.output_dir or f"refined/{Path(data.data or '').stem}")


if __name__ == "__main__":
    main()
