"""The answer that every row is trained on: stage 1 for raw rows, then what --data_source asks for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Data, Row, read_table
from raft_fast.engines.load import check_engines
from raft_fast.refinement.bench import Stage1, build_roles, check_once, named_engines
from raft_fast.refinement.checks import Checker
from raft_fast.refinement.golds import index_golds
from raft_fast.refinement.outputs import REFINED, add_calibration
from raft_fast.refinement.pipeline import refine
from raft_fast.run.folder import only_process
from raft_fast.run.options import Options
from raft_fast.run.progress import Reporter

Answers = Callable[[Options], Stage1 | None]
"""A recipe's stage 1 under these options; None to train on the gold answers."""


def answer_rows(data: Data, options: Options, original: Any, encoder: Any, run_dir: Path,
                reporter: Reporter, answers: Answers) -> list[Row]:
    """The training rows with the answer to train on. Raw rows are refined in RUN/refine; `original` is the
    model behind the engine `self`."""
    from raft_fast.engines.load import load_engine

    rows, stage = data.train, answers(options)
    if stage is not None and not data.refined:
        roles = build_roles(stage.options, lambda spec: load_engine(
            spec, options.model, original, stage.options.refine_batch_size, options.engines))
        folder = run_dir / "refine"
        with only_process(folder):  # `python -m raft_fast.refine --output_dir RUN/refine` takes the same
            golds = index_golds(rows, stage.options, encoder, folder, reporter)
            refine(rows, stage, roles, encoder, folder, reporter, seed=options.data.seed,
                   total_rows=data.total, golds=golds)
            add_calibration(folder, encoder)
        rows = read_table(str(folder / REFINED), None).rows
    return [replace(row, completion=answer(row, options.train.data_source)) for row in rows]


def check_names(options: Options, run_dir: Path) -> None:
    """Raises UserError if a new run names a check or a judge that it cannot use; a resumed run tells what has
    changed."""
    if not run_dir.exists():
        Checker.of(options.refine)
        if options.refine.fusion_rounds and options.train.data_source == "fused":
            check_once("--judge", options.refine.judge)


def check_stage1(data: Data, options: Options, answers: Answers) -> None:
    """Raises UserError, before a model is loaded, if stage 1 names an engine that is not installed."""
    stage = answers(options)
    if stage is not None and not data.refined:
        check_engines(named_engines(stage.options))


def answer(row: Row, source: str) -> str:
    """The training answer of a refined row: the chosen one (ŷ), the filtered rewrite (ȳ) or the gold (y)."""
    return {"fused": row.completion, "rewrite": row.rewrite or row.gold, "gold": row.gold}[source]
