"""RUN/model/README.md: where the model comes from, what it was trained on and what was measured."""

from pathlib import Path
from typing import Any

import yaml

from raft_fast.report.names import LABELS, TITLES, judgement, measured, with_interval
from raft_fast.report.page import write_text
from raft_fast.report.run_files import RunFiles, read_run
from raft_fast.report.text import markdown, percent
from raft_fast.report.training_told import amount, method, shown_options, tags
from raft_fast.report.verdict import left_out, verdict
from raft_fast.run.errors import UserError
from raft_fast.run.options import SMOLLM2

LICENSES = {SMOLLM2: "apache-2.0"}
# data set of the quickstart, used where no --data is given
QUICKSTART_DATA = ("The 503 English rows of the PyPI package `zaragoza-construction-faq` (Swedish "
                   "building law, Zaragoza AB, CC BY 4.0)")


def write_model_card(run_dir: Path) -> Path:
    """Write `run_dir`/model/README.md from the run's files; returns its path.

    Raises UserError where the run has no model folder.
    """
    folder = run_dir / "model"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; the run must have trained a model first")
    return write_text(model_card(read_run(run_dir)), folder / "README.md")


def model_card(run: RunFiles) -> str:
    """The card as Markdown with the front matter that the hub reads."""
    base = run.config.get("model")
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(base, tags(run.config)), sort_keys=False)}---\n",
        f"# {run.name}\n",
        f"{markdown(base or 'An instruct model')}, trained on a domain {method(run.config)}, with "
        "raft-fast. "
        f"{markdown(' '.join(verdict(run)))}\n",
        "## Measured\n", *_scores(run.evaluation),
        "## How to load it\n", _LOADING,
        "## Data\n", _data(run),
        "## Configuration\n", _options(run),
        "## Limits\n", _limits(run),
    ]
    return "\n".join(parts)


_LOADING = """```python
from transformers import pipeline

chat = pipeline("text-generation", model="path/to/this/folder")
messages = [{"role": "user", "content": "..."}]
print(chat(messages, max_new_tokens=256)[0]["generated_text"][-1]["content"])
```
"""


def _front_matter(base: str | None, tags: list[str]) -> dict[str, Any]:
    # a folder on somebody's disk is no name that the hub could resolve
    named = base if base and base.count("/") == 1 and not base.startswith((".", "/", "~")) else None
    found = {"base_model": named, "license": LICENSES.get(base or ""),
             "library_name": "transformers", "pipeline_tag": "text-generation", "tags": tags}
    return {key: setting for key, setting in found.items() if setting}


def _scores(evaluation: dict[str, Any]) -> list[str]:
    if not evaluation:
        return ["This model has not been evaluated.\n"]
    lines = ["| | base | trained | change | kept | n | |", "|---|---|---|---|---|---|---|"]
    for part in TITLES:
        for name, metric in measured(evaluation.get(part)):
            lines.append("| " + " | ".join([
                LABELS[name] + (", reworded" if part == "paraphrases" else ""),
                with_interval(metric["base"]), with_interval(metric["trained"]),
                with_interval(metric["change"], signed=True),
                percent(metric["retention"]) if "retention" in metric else "",
                str(metric["base"]["n"]), judgement(metric)]) + " |")
    return ["\n".join(lines) + "\n",
            f"Brackets hold intervals ({evaluation['intervals']}). Both models answered the same "
            "prompts greedily. Of nats per token, less is better. Prompts and instructions "
            "are IFBench's.\n"]


def _data(run: RunFiles) -> str:
    source = run.config.get("data")
    lines = [f"Rows of {markdown(Path(source).name)}." if source else f"{QUICKSTART_DATA}.",
             *([amount(run)] if run.steps else [])]
    rows, sources = run.summary.get("rows"), run.summary.get("sources")
    if rows:
        lines.append(f"Stage 1 used {rows['used']} of {rows['total']} rows.")
    if sources:
        lines.append("Training answers: " + ", ".join(
            f"{count} {name}" for name, count in sources.items()) + ".")
    if run.evaluation:
        lines.append(f"{run.evaluation['domain']['rows']} held-out rows were evaluated on and "
                     "never trained on.")
    return " ".join(lines) + "\n"


def _options(run: RunFiles) -> str:
    lines = [f"| `{name}` | `{setting}` |" for name, setting in shown_options(run).items()]
    return "\n".join(["| option | value |", "|---|---|", *lines]) + "\n"


def _limits(run: RunFiles) -> str:
    limits = [
        "It answers from what it was trained on, and it can be wrong: check what matters.",
        "The scores compare texts and programs' verdicts; no person has judged the answers.",
        *left_out(run)]
    return "\n".join(f"- {markdown(line)}" for line in limits) + "\n"
