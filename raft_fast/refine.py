"""Stage 1 of RAFT: `python -m raft_fast.refine --data FILE --output_dir DIR`.

Each answer is rewritten by the model itself (Eq. 1), kept if it still says the same (Eqs. 2-3), merged with
the gold answer and judged (Eq. 4). docs/FILES.md says what DIR gets; started again on it, the command asks
only for missing replies."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import spread
from raft_fast.evaluation.ifbench import cached_suites
from raft_fast.refinement import outputs
from raft_fast.refinement.answers import open_raw, refine_rows, shard_of, show_estimate
from raft_fast.refinement.bench import check_refinement
from raft_fast.run.config import parse
from raft_fast.run.errors import UserError, entry
from raft_fast.run.folder import only_process
from raft_fast.run.options import Stage1Options
from raft_fast.run.progress import Reporter

DESCRIPTION = ("Stage 1 of RAFT: rewrite, filter, fuse and judge the answers of --data. "
               "--output_dir defaults to refined/<name of the data>; started again on the same "
               "folder, only missing replies are asked for.")


@entry
def main() -> None:
    """Refine, refine a shard, join shards, estimate (--dry_run), or explain one row."""
    options = Stage1Options(*parse("refine", DESCRIPTION, Stage1Options.kinds())[1])
    reporter = Reporter()
    data, how = options.data, options.how
    folder = Path(data.output_dir or f"refined/{Path(data.data or '').stem}")
    if how.explain is not None:
        from raft_fast.report.stage1 import explain

        if not data.output_dir and not data.data:
            raise UserError(f"--explain {how.explain}: requires --output_dir, the folder refined into")
        return explain(folder, how.explain)
    if how.merge:
        shards = outputs.finished_shards(folder)  # before the folder is made, to be locked
        with only_process(folder):
            return finish(outputs.merge(folder, shards, reporter, how.overwrite), folder, reporter)
    check_refinement(options.refine)
    from raft_fast.recipes.raft import stage1  # heavy: not for --help or a typo

    stage = stage1(options.refine)
    table = open_raw(data, reporter)
    everyone = replace(table, rows=spread(table.rows, data.max_rows, data.seed))
    mine = shard_of(everyone.rows, how)  # too many shards fail before models are loaded
    reporter.say(f"{data.data}: {len(everyone.rows):,} of {len(table.rows) + len(table.rejected):,} rows, "
                 f"{len(table.rejected):,} set aside")
    if how.dry_run:
        return show_estimate(mine, stage, options)
    own = folder if how.shard is None else outputs.shard_folder(folder, how.shard)
    with only_process(own):  # before the first file is written: another process may be reading it
        summary = refine_rows(everyone, len(table.rows), stage, options, cached_suites(), own, reporter)
        finish(summary, own, reporter)
    if how.shard is not None:
        reporter.say(f"once all shards are refined: python -m raft_fast.refine --merge --output_dir {folder}")


def finish(summary: dict[str, Any], folder: Path, reporter: Reporter) -> None:
    """Print the outcome; write the dataset card and the report."""
    from raft_fast.report.page import write_card, write_refine_report  # heavy: not for --help or a typo

    for line in outputs.outcome(summary):
        reporter.say(line)
    with reporter.phase("report"):
        write_card(folder)
        report = write_refine_report(folder)
    reporter.say(f"written to {folder}; report {report}")


if __name__ == "__main__":
    main()
