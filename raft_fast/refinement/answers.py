"""The answer that every row is trained on: refined by stage 1 where it is not yet, then the one asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Row, read_table
from raft_fast.data.training_rows import Data
from raft_fast.engines.load import check_engines
from raft_fast.run.folder import only_process
from raft_fast.run.options import Options, RefineOptions
from raft_fast.run.progress import Reporter


def answer_rows(data: Data, options: Options, original: Any, encoder: Any, run_dir: Path,
                reporter: Reporter) -> list[Row]:
    """Stage 1 where it is needed, then the answer to train on that --data_source asks for."""
    from raft_fast.engines.load import load_engine
    from raft_fast.refinement import add_calibration, build_roles, index_golds, refine

    source, rows = options.train.data_source, data.train
    if (refining := stage1(data, options)) is not None:
        roles = build_roles(refining, lambda spec: load_engine(spec, options.model, original,
                                                               refining.refine_batch_size,
                                                               options.engines))
        folder = run_dir / "refine"
        with only_process(folder):  # `python -m raft_fast.refine --output_dir RUN/refine` takes the same
            golds = index_golds(rows, refining, encoder, folder, reporter)
            refine(rows, refining, roles, encoder, folder, reporter, seed=options.data.seed,
                   total_rows=data.total, golds=golds)
            add_calibration(folder, encoder)
        rows = read_table(str(folder / "refined.parquet"), None).rows
    return [replace(row, completion=answer(row, source)) for row in rows]


def stage1(data: Data, options: Options) -> RefineOptions | None:
    """How the rows are to be refined; None where they need it no more."""
    source = options.train.data_source
    if data.refined or source == "gold":
        return None
    # a rewrite needs no fusion
    return replace(options.refine, fusion_rounds=0) if source == "rewrite" else options.refine


def check_stage1(data: Data, options: Options) -> None:
    """Raises UserError, before a model is loaded, where stage 1 names an engine that is not installed."""
    from raft_fast.refinement.roles import named_engines

    if (refining := stage1(data, options)) is not None:
        check_engines(named_engines(refining))


def answer(row: Row, source: str) -> str:
    """The training answer of a refined row: the fused one (ŷ), the filtered rewrite (ȳ) or the gold (y)."""
    return {"fused": row.completion, "rewrite": row.rewrite or row.gold, "gold": row.gold}[source]
