"""README.md in the formats that the Hugging Face Hub reads: model card and data set card."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from raft_fast.report import results, stage1
from raft_fast.report.files import Record, RunFiles, read, read_run, rejected, write_text
from raft_fast.report.results import markdown_table
from raft_fast.report.text import markdown
from raft_fast.run.errors import UserError
from raft_fast.run.option import needed, pinned_by
from raft_fast.run.options import SMOLLM2, AdapterOptions, RefineOptions, TrainOptions

PAPER = "[arXiv 2606.00147](https://arxiv.org/abs/2606.00147)"
LICENSES = {SMOLLM2: "apache-2.0"}
# data set of the quickstart, used without --data
QUICKSTART_DATA = ("The 503 English rows of the PyPI package `zaragoza-construction-faq` (Swedish "
                   "building law, Zaragoza AB, CC BY 4.0)")
ALWAYS = {"per_device_train_batch_size", "gradient_accumulation_steps", "seed"}  # options of every model card
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
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"),
         (10**7, "1M<n<10M"), (10**8, "10M<n<100M"))
LOAD_MODEL = """```python
from transformers import pipeline

chat = pipeline("text-generation", model="path/to/this/folder")
messages = [{"role": "user", "content": "..."}]
print(chat(messages, max_new_tokens=256)[0]["generated_text"][-1]["content"])
```
"""
LOAD_ROWS = """```python
from datasets import load_dataset

rows = load_dataset("path/to/this/folder", split="train")
print(rows[0]["prompt"][-1]["content"], rows[0]["completion"])
```
"""


def write_model_card(run_dir: Path) -> Path:
    """Write `run_dir`/model/README.md from the run's files; returns its path.

    Raises UserError if the run has no model folder.
    """
    folder = run_dir / "model"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; the run must have trained a model first")
    return write_text(model_card(read_run(run_dir)), folder / "README.md")


def model_card(run: RunFiles) -> str:
    """The card as Markdown with the front matter that the Hub reads."""
    config, base = run.config, run.config.get("model")
    # a local folder is no name that the Hub could resolve
    named = base if base and base.count("/") == 1 and not base.startswith((".", "/", "~")) else None
    front = {"base_model": named, "license": LICENSES.get(base or ""), "library_name": "transformers",
             "pipeline_tag": "text-generation", "tags": tags(config)}
    recipe = tags(config)[0]
    scores = [row[1:] for row in results.rows(run.evaluation)]
    source = config.get("data")
    data: stage1.Lines = [("rows", Path(source).name if source else QUICKSTART_DATA)]
    data += stage1.counts(run.summary) if "sources" in run.summary and "rows" in run.summary else []
    if run.evaluation:
        data.append(("held-out rows, evaluated and never trained on", str(run.evaluation["domain"]["rows"])))
    return _card({key: found for key, found in front.items() if found}, run.name, [
        f"{markdown(base or 'An instruct model')}, fine-tuned on a domain with raft-fast by the recipe "
        f"{markdown(recipe)}{f' ({PAPER})' if recipe == 'raft' else ''}. "
        f"{markdown(results.verdict(run.evaluation, run.collapse))}\n",
        "## Measured\n",
        *([markdown_table(results.COLUMNS, scores), f"↓: lower is better. Intervals: "
           f"{run.evaluation['intervals']}. Both models answered the same prompts greedily; general prompts "
           "and instructions are IFBench's.\n"]
          if scores else ["This model has not been evaluated.\n"]),
        "## How to load it\n", LOAD_MODEL,
        "## Data\n", markdown_table(("", ""), data),
        "## Training\n", markdown_table(("", ""), [*(results.amount(run.steps) if run.steps else []),
                                                   *shown_options(run)]),
        "## Limits\n", _limits([
            "It answers from what it was trained on and can be wrong: check what matters.",
            "The scores compare texts and verdicts of programs; no person has judged the answers.",
            *results.caveats(run)])])


def tags(config: Record) -> list[str]:
    """What the Hub finds the model by: its recipe (of file:Class the class), and lora."""
    plain = config.get("data_source") == "gold" and not config.get("distillation", True)
    recipe = "sft" if plain else str(config.get("recipe") or "raft").rpartition(":")[2]
    return [recipe, *(["lora"] if config.get("use_peft") else [])]


def shown_options(run: RunFiles) -> stage1.Lines:
    """(option, value) of the options that decided this run; those that it ignored are left out."""
    groups = [*([RefineOptions] if run.summary else []), TrainOptions, AdapterOptions]
    fields = {one.name: one.metadata for group in groups for one in dataclasses.fields(group)}
    decided = pinned_by(groups, "rows", "refinement", "training") | ALWAYS

    def used(name: str) -> bool:
        needs = fields[name].get("needs") if name in fields else None
        other, accepted = needed(needs) if needs else ("", [])
        value = run.config.get(other, True)
        return not needs or (bool(value in accepted if accepted else value) and used(other))

    return [(f"`{name}`", f"`{found}`") for name, found in run.config.items()
            if name in decided and used(name)]


def write_card(folder: Path, license: str = "unknown", language: str | None = None) -> Path:
    """Write `folder`/README.md, the card of a refined data set; returns its path. `language` holds codes
    separated by commas."""
    summary, config = read(folder / "summary.json", {}), read(folder / "config.yaml", {})
    text = data_card(folder.resolve().name, summary, config, license, language, rejected(folder))
    return write_text(text, folder / "README.md")


def data_card(name: str, summary: Record, config: Record, license: str, language: str | None,
              rejected: Sequence[str] = ()) -> str:
    """The card as Markdown; only refined.parquet is data for `load_dataset`. `rejected`: why rows were set
    aside."""
    used = summary["rows"]["used"]
    languages = [code.strip() for code in (language or "").split(",") if code.strip()]
    front = {
        "license": license, **({"language": languages} if languages else {}),
        "task_categories": ["text-generation"], "tags": ["raft", "synthetic"],
        "size_categories": [next((size for limit, size in SIZES if used < limit), "n>100M")],
        "configs": [{"config_name": "default",
                     "data_files": [{"split": "train", "path": "refined.parquet"}]}],
    }
    changed = used - summary["sources"]["gold"]
    made = [(what, str(found)) for what, found in _made(summary, config).items() if found not in (None, "")]
    return _card(front, name, [
        f"Questions with answers refined by stage 1 of RAFT ({PAPER}) with raft-fast: the model that is to "
        "learn them rewrites each answer, checks keep what has the same meaning, a fuser merges it with the "
        "gold answer, and judges choose.\n",
        "## How to load it\n", LOAD_ROWS,
        "## Columns\n", markdown_table(("column", "what it holds"), [
            (f"`{column}`", what) for column, what in COLUMNS.items()]),
        "## What came of it\n", markdown_table(("", ""), stage1.counts(summary) + stage1.refusals(summary)),
        "## How it was made\n", markdown_table(("", ""), made),
        "## Limits\n", _limits([
            f"{changed:,} of the answers in `completion` are synthetic text that no person has read: models "
            "wrote them, programs and models checked them. They can be wrong." if changed else
            "Nothing was refined: every answer in `completion` is the gold answer.",
            "Questions and gold answers come from the data named above; its license is "
            + ("not stated." if license == "unknown" else f"{license}.")
            + " The licenses of the models that wrote the other answers may add terms.",
            "decisions.jsonl beside this file holds every candidate and the reason for every choice; "
            "report.html shows it.", *stage1.notes(summary, rejected)])])


def _made(summary: Record, config: Record) -> dict[str, Any]:
    engines, data = summary["engines"], config.get("data")
    return {"data": Path(data).name if data else None, "rewriter": _public(engines["rewriter"]),
            "fuser": _public(engines["fuser"]), "judges": ", ".join(map(_public, engines["judges"])),
            "encoder": _public(config.get("encoder")), "τ": summary["tau"],
            "τ of fusions": summary.get("fused_tau"), "fusion rounds at most": summary["fusion_rounds"],
            "no further round from a mean score of": summary["judge_stop"],
            "judges that must give a score": summary.get("quorum"), "seed": summary["seed"],
            **{f"prompt `{name}`": f"`{version}`"
               for name, version in (summary.get("prompts") or {}).items()}}


def _public(name: str | None) -> str:
    """A model's name without the folders of a local path."""
    return Path(name).name if name and name.startswith(("/", ".", "~")) else name or ""


def _limits(lines: Sequence[str]) -> str:
    return "\n".join(f"- {markdown(line)}" for line in lines) + "\n"


def _card(front: Record, name: str, parts: Sequence[str]) -> str:
    return "\n".join([f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n", f"# {markdown(name)}\n", *parts])
