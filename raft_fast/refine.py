"""Stage 1 of RAFT: refine a domain's answers so that learning them bends the model less.

    python -m raft_fast.refine --data FILE --output_dir DIR

Each answer is rewritten by the model itself (Eq. 1), kept where it still says the same (Eqs. 2-3),
merged with the gold answer and judged (Eq. 4). DIR gets refined.parquet (trainable as it is),
decisions.jsonl (what was chosen for each row, and why), summary.json, rejected.jsonl (rows set
aside), report.html, README.md (a dataset card) and config.yaml. Started again on the same DIR it
asks only for replies it does not have.
"""

from pathlib import Path
from typing import Any

from raft_fast import config, dataset
from raft_fast.errors import UserError, entry
from raft_fast.options import (
    CardOptions,
    DataOptions,
    EngineOptions,
    ModelOptions,
    RefineOptions,
    RefineRunOptions,
    ShowOptions,
)
from raft_fast.progress import Reporter
from raft_fast.refinement import Roles, build_roles, refine
from raft_fast.refinement.outputs import PARTIAL_REFINED
from raft_fast.run import make_folder

DESCRIPTION = ("Stage 1 of RAFT: rewrite, filter, fuse and judge the answers of --data. "
               "--output_dir defaults to refined/<name of the data>; started again on the same "
               "folder, only missing replies are asked for.")


@entry
def main() -> None:
    """Read rows, load whom the options name, refine, say what came of it."""
    _, options = config.parse("refine", DESCRIPTION,
                              [DataOptions, ModelOptions, EngineOptions, RefineOptions, RefineRunOptions,
                               CardOptions, ShowOptions])
    *options, show = options  # what is shown is no part of the run's configuration
    data, model, engines, stage, how, card = options
    if show.explain is not None:
        explain_row(data, show.explain)
        return
    from raft_fast.report.stage1.card import write_card
    from raft_fast.report.stage1.page import write_report  # heavy: not for --help or a typo

    reporter = Reporter()
    rows = open_raw(data)
    chosen = rows.spread(data.max_rows, data.seed)
    output_dir = Path(data.output_dir or default_output_dir(data.data))
    make_folder(output_dir)
    if (output_dir / "heldout.parquet").exists():
        raise UserError(f"--output_dir {output_dir}: holds a training run; name another folder")
    config.to_yaml(options, output_dir / "config.yaml")
    dataset.write_jsonl(rows.rejected, output_dir / "rejected.jsonl")
    reporter.say(f"{data.data}: {len(chosen)} of {len(rows)} rows, {len(rows.rejected)} set aside")
    roles, encoder = load(model, engines, stage, reporter)
    try:
        summary = refine(chosen, stage, roles, encoder, output_dir, reporter, seed=data.seed,
                         total_rows=len(rows), retry_failed=how.retry_failed)
    except KeyboardInterrupt:
        reporter.say(f"the rows decided so far are in {output_dir / PARTIAL_REFINED}; "
                     "the same command goes on from here")
        raise
    counts = [f"{count} {source}" for source, count in summary["sources"].items() if count]
    reporter.say(f"training answers: {', '.join(counts)}; written to {output_dir}")
    with reporter.phase("report"):
        write_card(output_dir, card.license, card.language)
        report = write_report(output_dir)
    reporter.say(f"report {report}")


def explain_row(data: DataOptions, row_id: str) -> None:
    """Print what stage 1 decided about one row. Loads no model."""
    from raft_fast.report.stage1.explain import explain

    if not data.output_dir and not data.data:
        raise UserError(f"--explain {row_id}: --output_dir is missing; name the folder that was "
                        "refined into")
    explain(Path(data.output_dir or default_output_dir(data.data or "")), row_id)


def open_raw(data: DataOptions) -> dataset.RowFile:
    """The rows of --data. Raises UserError where there is no --data or stage 1 is done already."""
    if not data.data:
        raise UserError("--data is missing: name a .jsonl, .parquet or .csv file or a `datasets` "
                        "name, as in python -m raft_fast.refine --data rows.jsonl")
    rows = dataset.open_rows(data.data, data.max_bad_rows)
    if rows.refined:
        raise UserError(f"--data {data.data}: is refined already; train on it with "
                        "python -m raft_fast.train --data, or give the raw rows")
    return rows


def load(
    model: ModelOptions, engines: EngineOptions, stage: RefineOptions, reporter: Reporter
) -> tuple[Roles, Any]:
    """The engines and the encoder that the options name."""
    from raft_fast.models import load_encoder, load_engine  # heavy: not for --help or a typo

    with reporter.phase("load models"):
        encoder = load_encoder(model.encoder, model.device)
        roles = build_roles(
            stage, lambda spec: load_engine(spec, model, None, stage.refine_batch_size, engines))
    return roles, encoder


def default_output_dir(source: str) -> str:
    """refined/<name of the data>."""
    return f"refined/{Path(source).stem}"


if __name__ == "__main__":
    main()
