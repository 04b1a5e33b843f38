"""The end of a run: README.md in the formats that the Hugging Face Hub reads, report, table, upload."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import yaml

from raft_fast.evaluation.during_training import collapse_of
from raft_fast.report import results, stage1
from raft_fast.report.page import amount, caveats, write_run_report
from raft_fast.report.results import Lines, Record, markdown, markdown_table, read, read_run
from raft_fast.run.errors import UserError
from raft_fast.run.fetch import push, repository
from raft_fast.run.files import read_json
from raft_fast.run.options import SMOLLM2, AdapterOptions, Options, RefineOptions, TrainOptions
from raft_fast.run.progress import Reporter

PAPER = "[arXiv 2606.00147](https://arxiv.org/abs/2606.00147)"
LICENSES = {SMOLLM2: "apache-2.0"}
# data set of the quickstart, used without --data
QUICKSTART_DATA = ("The 503 English rows of the PyPI package `zaragoza-construction-faq` (Swedish "
                   "building law, Zaragoza AB, CC BY 4.0)")
ALWAYS = {"learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "data_source",
          "seed"}
COLUMNS = {
    "row_id": "the row's name in the original data",
    "prompt": "the conversation up to the answer: messages with `role` and `content`",
    "completion": "the answer to train on",
    "gold": "the answer of the original data",
    "rewrite": "the model's own rewrite, null if a check refused it",
    "fused": "the fusion of both, null if none was chosen",
    "source": "which of the three `completion` is: gold, rewrite or fused",
    "similarity": "cosine similarity of gold answer and rewrite",
    "category": "the row's category, null if the data has none",
}
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "n>100M")
LOAD_MODEL = """```python
from transformers import pipeline

chat = pipeline("text-generation", model="path/to/this/folder")
print(chat([{"role": "user", "content": "..."}])[0]["generated_text"][-1]["content"])
```
"""
LOAD_ROWS = '`datasets.load_dataset("path/to/this/folder", split="train")`\n'


def finish(run_dir: Path, options: Options, reporter: Reporter) -> dict[str, float]:
    """Model card and report from what the run has written; prints the table; uploads with --push_to_hub.
    Returns the means in evaluation.json as eval_PART_METRIC, those of the base with _base behind."""
    evaluation = read_json(run_dir / "evaluation.json", "restore it, or delete it to evaluate again")
    write_model_card(run_dir)
    report = write_run_report(run_dir)
    results.print_table(evaluation)
    reporter.say(f"model  {run_dir / 'model'}\nreport {report}")
    if collapse := collapse_of(run_dir):
        reporter.say(f"warning: training ended early: {collapse}")
    if name := repository(options.watch, run_dir):
        with reporter.phase("upload"):
            address = upload(run_dir, name, options.watch.hub_private_repo)
        reporter.say(f"hub    {address}")
    means = {f"{part}_{metric}{ending}": both[model]["mean"]
             for part in ("domain", "paraphrases", "general")
             for metric, both in ((evaluation.get(part) or {}).get("metrics") or {}).items()
             for model, ending in (("trained", ""), ("base", "_base"))}
    means |= {f"drift_{probe}_kl": one["kl"]["mean"] for probe, one in (evaluation.get("drift") or {}).items()
              if "kl" in (one or {})}
    return {f"eval_{name}": mean for name, mean in means.items() if mean is not None}


def upload(run_dir: Path, name: str, private: bool, message: str = "Trained with raft-fast") -> str:
    """Upload RUN/model to the repository `name`; returns its address. Raises UserError if training
    collapsed, or the hub refuses."""
    if collapse := collapse_of(run_dir):
        raise UserError(f"--hub_model_id {name}: not uploaded, because training ended early ({collapse}); "
                        f"look at {run_dir / 'report.html'} first, then hf upload {name} {run_dir / 'model'}")
    return push(run_dir / "model", name, private, message)


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
    scores = [row[1:] for row in results.rows(run.evaluation)]
    data: Lines = [("rows", Path(config["data"]).name if config.get("data") else QUICKSTART_DATA)]
    data += stage1.counts(run.summary, run_dir) if "sources" in run.summary and "rows" in run.summary else []
    front = {"base_model": named, "license": LICENSES.get(base or ""), "library_name": "transformers",
             "pipeline_tag": "text-generation", "tags": [recipe, *(["lora"] * bool(config.get("use_peft")))]}
    intro = (f"{markdown(base or 'An instruct model')}, fine-tuned on a domain with raft-fast by the recipe "
             f"{markdown(recipe)}{f' ({PAPER})' if recipe == 'raft' else ''}.\n")
    return _write(folder / "README.md", front, run.name, intro, {
        "Measured": f"{markdown_table(results.COLUMNS, scores)}\n↓: lower is better. Intervals: "
        f"{run.evaluation['intervals']}. Both models answered the same prompts greedily.\n" if scores else
        "This model has not been evaluated.\n",
        "How to load it": LOAD_MODEL,
        "Data": markdown_table(("", ""), data),
        "Training": markdown_table(("", ""), [*amount(run.steps), *_options(config)]),
    }, ["It answers from what it was trained on and can be wrong: check what matters.",
        "The scores compare texts and verdicts of programs: no person has judged answers.", *caveats(run)])


def write_card(folder: Path) -> Path:
    """Write `folder`/README.md, the card of a refined data set; returns its path. Only refined.parquet is
    data for `load_dataset`."""
    summary, config = read(folder / "summary.json", {}), read(folder / "config.yaml", {})
    used = summary["rows"]["used"]
    front = {
        "license": "unknown", "task_categories": ["text-generation"], "tags": ["raft", "synthetic"],
        "size_categories": [SIZES[min(max(len(str(used)) - 3, 0), len(SIZES) - 1)]],
        "configs": [{"config_name": "default",
                     "data_files": [{"split": "train", "path": "refined.parquet"}]}],
    }
    changed, objections = used - summary["sources"]["gold"], summary.get("objections") or {}
    return _write(folder / "README.md", front, folder.resolve().name, (
        f"Questions with answers refined by stage 1 of RAFT ({PAPER}) with raft-fast: the model that is to "
        "learn them rewrites each answer, checks keep what has the same meaning, a fuser merges it with the "
        "gold answer, and judges choose.\n"), {
        "How to load it": LOAD_ROWS,
        "Columns": markdown_table(("column", "what it holds"), [
            (f"`{column}`", what) for column, what in COLUMNS.items()]),
        "What came of it": markdown_table(("", ""), [*stage1.counts(summary, folder), *(
            (f"refused by the check {check}", f"{count:,}") for check, count in objections.items())]),
        "How it was made": markdown_table(("", ""), _made(summary, config)),
    }, [f"{changed:,} of the answers in `completion` are synthetic text that no person has read: models "
        "wrote them, programs and models checked them. They can be wrong." if changed else
        "Nothing was refined: every answer in `completion` is the gold answer.",
        "Questions and gold answers come from the data named above; its license is not stated. The licenses "
        "of the models that wrote the other answers may add terms.", *stage1.notes(summary)])


def _options(config: Record) -> Lines:
    """(option, value) of training: the `ALWAYS` shown, and those that are not at their defaults."""
    defaults = {one.name: one.default for group in (TrainOptions, AdapterOptions, RefineOptions)
                for one in dataclasses.fields(group)}
    return [(f"`{name}`", f"`{found}`") for name, found in config.items()
            if name in ALWAYS or (name in defaults and found != defaults[name])]


def _made(summary: Record, config: Record) -> Lines:
    """The data and what worked on it, of a local path the name without its folders, and the options."""
    engines = summary["engines"]
    names = {"data": config.get("data"), "encoder": config.get("encoder"),
             "rewriter": engines["rewriter"], "fuser": engines["fuser"],
             **{f"judge {at}": one for at, one in enumerate(engines["judges"], 1)},
             **{f"prompt `{name}`": version for name, version in (summary.get("prompts") or {}).items()}}
    return [*((what, Path(name).name if what == "data" or name.startswith(("/", ".", "~")) else name)
              for what, name in names.items() if name),
            *((key, str(summary[key])) for key in ("tau", "fusion_rounds", "seed"))]


def _write(path: Path, front: Record, name: str, intro: str, sections: dict[str, str],
           limits: Sequence[str]) -> Path:
    """A card: YAML in front (what is empty is left out), titled sections, and limits as a list."""
    known = {key: found for key, found in front.items() if found}
    sections = sections | {"Limits": "".join(f"- {markdown(line)}\n" for line in limits)}
    return results.write_text("\n".join([
        f"---\n{yaml.safe_dump(known, sort_keys=False)}---\n", f"# {markdown(name)}\n", intro,
        *(f"## {title}\n\n{section}" for title, section in sections.items())]), path)
