"""Two models, the same questions: `python -m raft_fast.evaluate --model PATH --base PATH`."""

from pathlib import Path
from typing import Any

from raft_fast.engines import Engine
from raft_fast.run.config import parse
from raft_fast.run.errors import UserError, entry
from raft_fast.run.files import read_yaml, write_jsonl
from raft_fast.run.folder import HELDOUT, find_run, save_costs
from raft_fast.run.options import ComparisonOptions, DataOptions, ModelOptions
from raft_fast.run.progress import Reporter

DESCRIPTION = """Measure a trained model against the model it came from: answers to held-out rows
against their gold answers, and instructions that have nothing to do with the domain. --model is the
folder RUN/model of a run (or RUN/checkpoints/step-N/model), --base what it was trained from; --data
defaults to the run's held-out rows, --output_dir to evaluations/<name of the run>."""


@entry
def main() -> None:
    """Check the options, load both models, compare them, report."""
    options = ComparisonOptions(*parse("evaluate", DESCRIPTION, ComparisonOptions.kinds())[1])
    data, model, reporter = options.data, options.model, Reporter()
    if model.model == ModelOptions.model and not (data.data and options.compare.base):
        raise UserError("--model: must be a run's model, as in --model RUN/model; for another model name "
                        "--data and --base too")
    # heavy: not for --help or a typo
    from raft_fast.data.dataset import read_rejected, read_rows, renderable
    from raft_fast.engines.load import load_engine
    from raft_fast.evaluation import evaluate
    from raft_fast.models.fetch import fetch_model, own_folder
    from raft_fast.models.load import load_encoder
    from raft_fast.report.page import write_model_card, write_run_report
    from raft_fast.report.results import print_table

    own_folder(model.model)  # before rows are read or models loaded
    source, output_dir = find_data(data, model), find_output_dir(data, model)
    before = options.compare.base or find_base(model)
    counts = [count for count in (data.max_rows, options.evaluate.eval_rows) if count]
    rows = read_rows(source, data, min(counts, default=0), output_dir, reporter, prompts=True)

    def load(spec: str, shared: Engine | None = None, option: str = "model") -> Any:
        return load_engine(spec, model, shared, options.evaluate.eval_batch_size, options.engines, option,
                           exact=True)

    try:
        with reporter.phase("load models"):
            base = load(str(fetch_model(before, option="--base")), option="--base")
            trained, encoder = load("self"), load_encoder(model)
        rows, refused = renderable(rows, base.chat, source, data.max_bad_rows, reporter)
        if refused:
            write_jsonl([*read_rejected(output_dir), *refused], output_dir / "rejected.jsonl")
            reporter.say(f"{len(refused)} rows set aside; the first: {refused[0]}")
        result = evaluate(base, trained, rows, options.evaluate, encoder, reporter, output_dir)
    finally:
        save_costs(output_dir, reporter)
    print_table(result)
    if (output_dir / "model").is_dir():  # the run's own folder
        write_model_card(output_dir)
    reporter.say(f"results {output_dir / 'evaluation.json'}\nreport  {write_run_report(output_dir)}")


def find_data(data: DataOptions, model: ModelOptions) -> str:
    """--data, or the held-out rows of the run that the model's folder lies in."""
    heldout = find_run(Path(model.model)) / HELDOUT
    if not data.data and not heldout.is_file():
        raise UserError(f"--model {model.model}: there is no {heldout} beside it; name a run's model, as in "
                        "--model RUN/model, or the rows to evaluate on with --data FILE")
    return data.data or str(heldout)


def find_base(model: ModelOptions) -> str:
    """The model that the run was trained from. Raises UserError outside of a run."""
    config = find_run(Path(model.model)) / "config.yaml"
    if not config.is_file():
        raise UserError(f"--base is missing, and there is no {config} that names it")
    return str(read_yaml(config, "restore it, or name the model with --base", ["model"])["model"])


def find_output_dir(data: DataOptions, model: ModelOptions) -> Path:
    """--output_dir, else evaluations/<run>: a run's own evaluation is never overwritten."""
    folder = Path(model.model)
    name = folder.name
    if name == "model":  # of every run; the names of run and checkpoint tell more
        run_dir = find_run(folder.resolve())
        steps = [part for part in folder.resolve().relative_to(run_dir).parts if "step-" in part]
        name = "-".join([run_dir.name, *steps])
    return Path(data.output_dir or f"evaluations/{name}")


if __name__ == "__main__":
    main()
