"""DIR/README.md: the dataset card of a refined data set, in the format that the Hugging Face hub reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from raft_fast.report.page import write_text
from raft_fast.report.stage1.files import read_config, read_rejected, read_summary
from raft_fast.report.stage1.notes import notes
from raft_fast.report.text import markdown, percent, value

Record = dict[str, Any]
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"),
         (10**7, "1M<n<10M"), (10**8, "10M<n<100M"))
COLUMNS = {
    "row_id": "the row's name in the data it comes from",
    "prompt": "the conversation up to the answer: messages with `role` and `content`",
    "completion": "the answer to train on",
    "gold": "the answer that the data came with",
    "rewrite": "the model's own rewrite, null where a check refused it",
    "fused": "the fusion of both, null where none was chosen",
    "source": "which of the three `completion` is: gold, rewrite or fused",
    "similarity": "cosine similarity of gold answer and rewrite",
    "category": "the row's category, null where the data has none",
}


def write_card(folder: Path, license: str = "unknown", language: str | None = None) -> Path:
    """Write `folder`/README.md from summary.json and config.yaml; returns its path.

    `language` holds codes separated by commas.
    """
    text = card(folder.resolve().name, read_summary(folder), read_config(folder), license, language,
                read_rejected(folder))
    return write_text(text, folder / "README.md")


def card(name: str, summary: Record, config: Record, license: str, language: str | None,
         rejected: Sequence[str] = ()) -> str:
    """The card as Markdown with the front matter that makes `load_dataset` read refined.parquet.

    `rejected` are the reasons of rows that were set aside.
    """
    front = yaml.safe_dump(front_matter(summary["rows"]["used"], license, language), sort_keys=False)
    return "\n".join([
        f"---\n{front}---\n",
        f"# {markdown(name)}\n",
        "Questions with answers refined by stage 1 of RAFT "
        "([arXiv 2606.00147](https://arxiv.org/abs/2606.00147)) with raft-fast: each answer is "
        "rewritten by the model that is to learn it, kept where it still says the same, merged with "
        "the gold answer, and judged.\n",
        "## How to load it\n", _LOADING,
        "## Columns\n", _table(("column", "what it holds"), [
            (f"`{column}`", what) for column, what in COLUMNS.items()]),
        "## What came of it\n", _counts(summary),
        "## How it was made\n", _made(summary, config),
        "## Limits\n", _limits(summary, license, rejected),
    ])


def front_matter(rows: int, license: str, language: str | None) -> Record:
    """What the hub and `datasets` read. Only refined.parquet is data; the rest is about it."""
    languages = [code.strip() for code in (language or "").split(",") if code.strip()]
    return {
        "license": license,
        **({"language": languages} if languages else {}),
        "task_categories": ["text-generation"],
        "tags": ["raft", "synthetic"],
        "size_categories": [next((name for limit, name in SIZES if rows < limit), "n>100M")],
        "configs": [{"config_name": "default",
                     "data_files": [{"split": "train", "path": "refined.parquet"}]}],
    }


_LOADING = """```python
from datasets import load_dataset

rows = load_dataset("path/to/this/folder", split="train")
print(rows[0]["prompt"][-1]["content"], rows[0]["completion"])
```
"""


def _counts(summary: Record) -> str:
    rows, used = summary["rows"], summary["rows"]["used"]
    lines = [("rows", f"{used:,} of {rows['total']:,}"),
             ("rewrites that passed the filter", _share(summary["passed_filter"], used))]
    lines += [(f"`source` {source}", _share(count, used))
              for source, count in summary["sources"].items()]
    lines += [(f"rewrites refused by the check `{check}`", _share(count, used))
              for check, count in summary["objections"].items()]
    if similarity := summary.get("similarity"):
        lines.append(("similarity, median", value(similarity["p50"])))
    if gap := summary.get("supervision_gap"):
        lines.append(("nats a token for the rewriter, gold answers", value(gap["gold"])))
        lines.append(("nats a token for the rewriter, `completion`", value(gap["training"])))
    return _table(("", ""), lines)


def _made(summary: Record, config: Record) -> str:
    engines, data = summary["engines"], config.get("data")
    lines = [("data", Path(data).name if data else None), ("rewriter", _public(engines["rewriter"])),
             ("fuser", _public(engines["fuser"])),
             ("judges", ", ".join(map(_public, engines["judges"]))),
             ("encoder", _public(config.get("encoder"))), ("τ", summary["tau"]),
             ("τ of fusions", summary.get("fused_tau")),
             ("fusion rounds at most", summary["fusion_rounds"]),
             ("no further round from a mean score of", summary["judge_stop"]),
             ("judges that must give a score", summary.get("quorum")),
             ("seed", summary["seed"])]
    lines += [(f"prompt `{name}`", f"`{version}`")
              for name, version in (summary.get("prompts") or {}).items()]
    return _table(("", ""), [line for line in lines if line[1] not in (None, "")])


def _public(name: str | None) -> str:
    """A model's name without the folders of the machine it lay on."""
    name = name or ""
    return Path(name).name if name.startswith(("/", ".", "~")) else name


def _limits(summary: Record, license: str, rejected: Sequence[str]) -> str:
    changed = summary["rows"]["used"] - summary["sources"]["gold"]
    limits = [
        f"{changed:,} of the answers in `completion` are synthetic text. No person has read them: "
        "models wrote them, and programs and models checked them. They can be wrong."
        if changed else
        "Nothing was refined: every answer in `completion` is the gold answer that the data came with.",
        "Questions and gold answers come from the data named above; their license "
        + ("has not been stated." if license == "unknown" else f"is {license}.")
        + " The licenses of the models that wrote the other answers may add terms of their own.",
        "decisions.jsonl beside this file holds, for every row, all that was written and why one "
        "answer was chosen; report.html shows it.",
        *notes(summary, rejected)]
    return "\n".join(f"- {markdown(line)}" for line in limits) + "\n"


def _table(head: tuple[str, str], lines: list[tuple[str, Any]]) -> str:
    rows = [f"| {markdown(name)} | {markdown(str(told))} |" for name, told in lines]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *rows]) + "\n"


def _share(count: int, whole: int) -> str:
    return f"{count:,} ({percent(count / whole if whole else None)})"
