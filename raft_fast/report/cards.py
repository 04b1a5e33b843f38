"""The end of a run: README.md in the formats that the Hugging Face Hub reads, report, table, upload."""

import dataclasses
from itertools import chain
from pathlib import Path

from raft_fast.report import results, stage1
from raft_fast.report.page import amount, caveats, write_run_report
from raft_fast.report.results import Lines, Record, read, read_run
from raft_fast.run.errors import UserError
from raft_fast.run.fetch import push, repository
from raft_fast.run.files import read_json
from raft_fast.run.options import AdapterOptions, Options, RefineOptions, TrainOptions
from raft_fast.run.progress import Reporter

ALWAYS = {"learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "data_source",
          "seed"}
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "n>100M")


def finish(run_dir: Path, options: Options, reporter: Reporter) -> dict[str, float]:
    """Model card and report from what the run has written; prints the table; uploads with --push_to_hub.
    Returns the means in evaluation.json as eval_PART_METRIC, those of the base with _base behind."""
    evaluation = read_json(run_dir / "evaluation.json", "restore it, or delete it to evaluate again")
    write_model_card(run_dir)
    report = write_run_report(run_dir)
    results.print_table(evaluation)
    reporter.say(f"model  {run_dir / 'model'}\nreport {report}")
    if name := repository(options.watch, run_dir):
        with reporter.phase("upload"):
            address = push(run_dir / "model", name, options.watch.hub_private_repo)
        reporter.say(f"hub    {address}")
    means = {f"{part}_{metric}{ending}": both[model]["mean"]
             for part in ("domain", "paraphrases", "general")
             for metric, both in ((evaluation.get(part) or {}).get("metrics") or {}).items()
             for model, ending in (("trained", ""), ("base", "_base"))}
    means |= {f"drift_{probe}_kl": one["kl"]["mean"] for probe, one in (evaluation.get("drift") or {}).items()
              if "kl" in (one or {})}
    return {f"eval_{name}": mean for name, mean in means.items() if mean is not None}


def write_model_card(run_dir: Path) -> Path:
    """Write `run_dir`/model/README.md from the run's files; returns its path.

    Raises UserError if the run has no model folder.
    """
    folder = run_dir / "model"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; the run must have trained a model first")
    run = read_run(run_dir)
    config, base = run.config, run.config.get("model")
    # a local folder is no name that the Hub could resolve
    named = base if base and base.count("/") == 1 and not base.startswith((".", "/", "~")) else None
    plain = config.get("data_source") == "gold" and not config.get("distillation", True)
    recipe = "sft" if plain else str(config.get("recipe") or "raft").rpartition(":")[2]  # of file:Class
    return results.render(
        "model_card.md.jinja", folder / "README.md", run=run, base=base, named=named,
        tags=[recipe, *(["lora"] * bool(config.get("use_peft")))], columns=results.COLUMNS,
        scores=[*chain(*results.tables(run.evaluation).values())], data=config.get("data"),
        counts=stage1.counts(run.summary, run_dir) if "sources" in run.summary else [],
        training=[*amount(run.steps), *_options(config)], notes=caveats(run))


def write_card(folder: Path) -> Path:
    """Write `folder`/README.md, the card of a refined data set; returns its path. Only refined.parquet is
    data for `load_dataset`."""
    summary, config = read(folder / "summary.json", {}), read(folder / "config.yaml", {})
    engines, digits = summary["engines"], len(str(summary["rows"]["used"]))
    counts = [*stage1.counts(summary, folder), *((f"refused by the check {check}", f"{count:,}")
                                                 for check, count in summary["objections"].items())]
    return results.render(
        "data_card.md.jinja", folder / "README.md", name=folder.resolve().name, summary=summary,
        config=config, counts=counts, notes=stage1.notes(summary), size=SIZES[min(max(digits - 3, 0), 6)],
        engines=[("encoder", config.get("encoder")), ("rewriter", engines["rewriter"]),
                 ("fuser", engines["fuser"]), *(("judge", one) for one in engines["judges"])])


def _options(config: Record) -> Lines:
    """(option, value) of training: the `ALWAYS` shown, and those that are not at their defaults."""
    defaults = {one.name: one.default for group in (TrainOptions, AdapterOptions, RefineOptions)
                for one in dataclasses.fields(group)}
    return [(f"`{name}`", f"`{found}`") for name, found in config.items()
            if name in ALWAYS or (name in defaults and found != defaults[name])]
