"""Two models, the same questions: `python -m raft_fast.evaluate --model PATH --base PATH`."""

import sys
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Row, read_table, spread
from raft_fast.engines import Engine
from raft_fast.engines.load import check_engines
from raft_fast.run.config import parse
from raft_fast.run.errors import UserError, entry
from raft_fast.run.files import read_jsonl, read_yaml, write_jsonl
from raft_fast.run.folder import make_folder, save_costs
from raft_fast.run.options import (
    BaseOptions,
    DataOptions,
    EngineOptions,
    EvaluateOptions,
    JuryOptions,
    LMEvalOptions,
    ModelOptions,
)
from raft_fast.run.progress import Reporter

DESCRIPTION = """Measure a trained model against the model it came from: answers to held-out rows
against their gold answers, and instructions that have nothing to do with the domain. --model is the
folder RUN/model of a run (or RUN/checkpoints/step-N/model), --base what it was trained from; --data
defaults to the run's held-out rows, --output_dir to evaluations/<name of the run>."""
GROUPS = [DataOptions, ModelOptions, EngineOptions, BaseOptions, EvaluateOptions, JuryOptions,
          LMEvalOptions]
HELDOUT = "heldout.parquet"


@entry
def main() -> None:
    argv = sys.argv[1:]
    _, groups = parse("evaluate", DESCRIPTION, GROUPS, argv)
    data, model, _, base, *_ = groups
    told = any(word.split("=")[0] == "--model" for word in argv) or model.model != ModelOptions.model
    if not told and not (data.data and base.base):
        raise UserError("--model is missing: name a run's model, as in --model RUN/model")
    run(*groups)


def run(
    data: DataOptions, model: ModelOptions, engines: EngineOptions, base: BaseOptions,
    options: EvaluateOptions, juries: JuryOptions, suites: LMEvalOptions,
) -> Path:
    """Everything the command does; returns the folder with evaluation.json."""
    from raft_fast.data.training_rows import renderable
    from raft_fast.engines.load import load_engine
    from raft_fast.evaluation import evaluate
    from raft_fast.evaluation.jury import FOLDER, open_jury
    from raft_fast.evaluation.lm_eval import find_tasks
    from raft_fast.models.fetch import fetch_model, own_folder
    from raft_fast.models.load import load_encoder
    from raft_fast.refinement.bench import check_once
    from raft_fast.report.results import print_table

    # a mistake there shows before rows are read
    own_folder(model.model)
    check_once("--eval_judge", juries.eval_judge)
    check_engines([("--eval_judge", spec.strip()) for spec in juries.eval_judge.split(",")])
    reporter = Reporter()
    tasks = find_tasks(suites)  # a task that there is none of shows before a model is loaded
    source, output_dir = find_data(data, model), find_output_dir(data, model)
    rows = read_rows(source, data, options, output_dir, reporter)
    try:
        with reporter.phase("load models"):
            before = str(fetch_model(base.base or find_base(model), option="--base"))
            base_engine: Any = load_engine(before, model, None, options.eval_batch_size, engines, "--base")
            trained_engine = load_engine("self", model, None, options.eval_batch_size, engines)
            encoder = load_encoder(model)
        rows, refused = renderable(rows, base_engine.chat, source, data.max_bad_rows, reporter)
        if refused:
            aside, new = output_dir / "rejected.jsonl", [one.as_json() for one in refused]
            known = list(read_jsonl(aside)) if aside.is_file() else []
            write_jsonl([*(one for one in known if one not in new), *new], aside)
            reporter.say(f"{len(refused)} rows set aside; the first: {refused[0]}")

        def judge(spec: str) -> Engine:
            return load_engine(spec, model, base_engine, options.eval_batch_size, engines)

        with open_jury(juries, judge, output_dir / FOLDER) as jury:
            result = evaluate(base_engine, trained_engine, rows, options, encoder, reporter, output_dir,
                              jury=jury, tasks=tasks)
    finally:
        save_costs(output_dir, reporter)
    print_table(result)
    write_documents(output_dir, reporter)
    return output_dir


def find_data(data: DataOptions, model: ModelOptions) -> str:
    """--data, or the held-out rows of the run that the model's folder lies in."""
    if data.data:
        return data.data
    folder = Path(model.model)
    heldout = find_run(folder) / HELDOUT
    if not folder.is_dir():
        raise UserError(f"--model {folder}: no such folder; name a run's model, as in --model RUN/model")
    if not heldout.is_file():
        raise UserError(f"--model {model.model}: there is no {heldout} beside it; name the rows to "
                        "evaluate on with --data FILE")
    return str(heldout)


def find_base(model: ModelOptions) -> str:
    """The model that the run was trained from. Raises UserError where no run tells."""
    config = find_run(Path(model.model)) / "config.yaml"
    if not config.is_file():
        raise UserError(f"--base is missing, and there is no {config} that names it")
    found = read_yaml(config, "restore it, or name the model before training with --base", ["model"])
    return str(found["model"])


def find_output_dir(data: DataOptions, model: ModelOptions) -> Path:
    """--output_dir, else evaluations/<run>: a run's own evaluation is never overwritten."""
    if data.output_dir:
        return Path(data.output_dir)
    folder = Path(model.model)
    if folder.name != "model":
        return Path("evaluations") / folder.name
    # every run's model folder is called model; the names of run and checkpoint tell more
    run_dir = find_run(folder.resolve())
    inside = folder.resolve().relative_to(run_dir).parts
    return Path("evaluations") / "-".join([run_dir.name, *(part for part in inside if "step-" in part)])


def find_run(model: Path) -> Path:
    """The run that a model's folder lies in: RUN/model or RUN/checkpoints/step-N/model. Else its parent."""
    return next((folder for folder in model.parents[:3] if (folder / HELDOUT).is_file()), model.parent)


def read_rows(source: str, data: DataOptions, options: EvaluateOptions, output_dir: Path,
              reporter: Reporter) -> list[Row]:
    """The rows to evaluate on; bad ones are set aside in rejected.jsonl."""
    table = read_table(source, data.max_bad_rows)
    make_folder(output_dir)
    if table.rejected:
        write_jsonl(table.rejected, output_dir / "rejected.jsonl")
    counts = [count for count in (data.max_rows, options.eval_rows) if count]
    rows = spread(table.rows, min(counts, default=0), data.seed)
    for note in table.notes:
        reporter.say(note)
    reporter.say(f"{len(rows)} of {len(table.rows)} rows from {source}, "
                 f"{len(table.rejected)} set aside")
    return rows


def write_documents(output_dir: Path, reporter: Reporter) -> None:
    """Bring the report, and the model card of a run, up to what was just measured."""
    from raft_fast.report.cards import write_model_card
    from raft_fast.report.page import write_run_report

    if (output_dir / "model").is_dir():
        write_model_card(output_dir)
    reporter.say(f"results {output_dir / 'evaluation.json'}\nreport  {write_run_report(output_dir)}")


if __name__ == "__main__":
    main()
