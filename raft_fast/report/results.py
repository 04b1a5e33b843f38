"""The files of a run as rows of text: one source for the terminal, the page and the cards."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console
from rich.table import Table

from raft_fast.run.errors import UserError, visible
from raft_fast.run.files import json_object, read_json, read_jsonl, read_yaml, replacing

_TOLD = yaml.safe_load((resources.files(__package__) / "labels.yaml").read_text(encoding="utf-8"))
PARTS, LABELS, DRIFT, CURVES = (_TOLD[name] for name in ("parts", "metrics", "drift", "curves"))
NONE, TOO_FEW, ENOUGH = "–", "too few rows", 10
WIDTH_OF_FILES = 140  # a log file has no width of its own
COLUMNS = ("", "base", "trained", "difference", "95 % interval", "n", "")
# (file, what stands for a missing one, keys of its objects), in the order of RunFiles
FILES: list[tuple[Any, ...]] = [
    ("config.yaml", {}), ("refine/summary.json", {}), ("metrics.jsonl", [], "step"),
    ("evaluation.json", {}, "domain", "general"), ("generations.jsonl", [], "suite", "model"),
    ("phases.json", [], "name", "seconds", "peak_bytes")]
Record = dict[str, Any]
Lines = list[tuple[str, ...]]


def tables(evaluation: Record) -> dict[str, Lines]:
    """Every metric of evaluation.json that some row has, by part: cells in the order of `COLUMNS`.

    ↓ behind a label: lower is better. The interval is that of the difference or, without one, of the trained
    model's value; n counts what the difference rests on."""
    return {name: [_cells(label, metric) for label, metric in _metrics(part, evaluation[part])
                   if any(metric.get(side, {}).get("n", 1) for side in ("base", "trained"))]
            for part, name in PARTS.items() if evaluation.get(part)}


def judgement(metric: Record) -> str:
    """better or worse if the interval of the change excludes zero, or if ten rows or more all change alike
    (by chance in 2 of 2¹⁰ cases), which leaves a bootstrap no interval; no verdict on fewer rows."""
    change = metric["change"]
    if change["n"] < ENOUGH:
        return TOO_FEW if change["n"] else ""
    if change["low"] is None and change["mean"] == 0:
        return "same"
    if change["low"] is not None and change["low"] <= 0 <= change["high"]:
        return "within noise"
    return "better" if (change["mean"] > 0) == metric["higher_is_better"] else "worse"


def notes(evaluation: Record) -> list[str]:
    """What qualifies the scores: parts left out, answers that failed."""
    if not evaluation:
        return ["No evaluation.json: neither model was evaluated."]
    general, found = evaluation["general"], []
    found.append(f"General behaviour was left out: {evaluation['general_skipped']}." if general is None else
                 f"IFBench: {general['prompts']} of {general['prompts_total']} prompts; "
                 f"{general['left_out']['prompts']} cannot be verified here.")
    if evaluation["domain"].get("without_answers"):
        found.append("The held-out rows have no answers: there are no domain scores.")
    for part in ("domain", "general"):
        failed = (evaluation[part] or {}).get("failed") or {}
        if any(failed.values()):
            found.append(f"Replies to {part} prompts that failed: base {failed['base']}, trained "
                         f"{failed['trained']}.")
    return found


def print_table(evaluation: Record) -> None:
    """Print the rows to stdout, and what qualifies them."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_OF_FILES)
    table = Table(*COLUMNS, title="Base against trained (↓: lower is better)", title_justify="left")
    for part, lines in tables(evaluation).items():
        table.add_section()
        table.add_row(part)
        for label, *cells in lines:
            table.add_row(*map(visible, (f"  {label}", *cells)))
    console.print(table, markup=False)
    for note in notes(evaluation):
        console.print(visible(note), markup=False)


def _metrics(part: str, found: Record) -> Iterator[tuple[str, Record]]:
    """(label, metric) of one part. Metrics that are neither good nor bad, or that the two models do not both
    have, have no `higher_is_better` or no `change`."""
    if part == "drift":
        lower = {"higher_is_better": False}
        for suite, what in DRIFT.items():
            yield f"KL on {what}, nats per token", {"trained": found[suite]["kl"]} | lower
            yield f"NLL of {what}, nats per token", found[suite]["nll"] | lower
    else:
        yield from ((LABELS[name], metric) for name, metric in found["metrics"].items())


def _cells(label: str, metric: Record) -> tuple[str, ...]:
    base, trained, change = (metric.get(side) for side in ("base", "trained", "change"))
    judged, better = change or trained or {}, metric.get("higher_is_better")
    low, high = judged.get("low"), judged.get("high")
    return (label + (" ↓" if better is False else ""),
            value(base["mean"]) if base else "", value(trained["mean"]) if trained else "",
            value(change["mean"], signed=True) if change else "",
            "" if low is None else f"[{value(low, bool(change))}, {value(high, bool(change))}]",
            str(judged.get("n", "")), judgement(metric) if change and better is not None else "")


@dataclass(frozen=True)
class RunFiles:
    """The files of a training run; `unreadable` names those that could not be read."""

    name: str
    unreadable: list[str]
    config: Record
    summary: Record
    steps: list[Record]
    evaluation: Record
    generations: list[Record]
    phases: list[Record]

def read_run(run_dir: Path) -> RunFiles:
    """Whatever files of a training run `run_dir` has; what is missing or unreadable is empty."""
    bad: list[str] = []
    found = [read(run_dir / name, empty, keys, bad) for name, empty, *keys in FILES]
    return RunFiles(run_dir.resolve().name, bad, *found)


def read(path: Path, empty: Any, keys: Sequence[str] = (), bad: list[str] | None = None) -> Any:
    """A JSON, JSON lines or YAML file whose objects have these keys, of the type of `empty`; that itself for
    a missing file and one that cannot be read, whose name is added to `bad`."""
    try:
        if not path.is_file():
            return empty
        if path.suffix == ".jsonl":
            return list(read_jsonl(path, keys=keys))
        return read_yaml(path) if path.suffix == ".yaml" else read_json(path, kind=type(empty), keys=keys)
    except UserError:
        if bad is not None:
            bad.append(path.name)
        return empty


def read_lines(path: Path, *keys: str) -> Iterator[Record | None]:
    """The lines of a file one at a time, None for one that is not an object with these keys."""
    if path.is_file():
        with path.open("rb") as file:
            for line in filter(bytes.strip, file):
                try:
                    yield json_object(line, keys)
                except ValueError:
                    yield None


def render(template: str, path: Path, **values: Any) -> Path:
    """Write a file from a template; returns its path. HTML is escaped, Markdown where the filter says so."""
    environment = Environment(
        loader=PackageLoader("raft_fast.report", ""), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, autoescape=lambda name: name is not None and ".html" in name)
    environment.filters.update(markdown=markdown, value=value)
    return write_text(environment.get_template(template).render(values), path)


def write_text(text: str, path: Path) -> Path:
    """Write a text file atomically; returns its path."""
    with replacing(path) as file:
        file.write(text)
    return path


def value(number: float | None, signed: bool = False) -> str:
    """Three decimals, or two significant digits of small numbers; a true minus sign; a dash for null."""
    if number is None:
        return NONE
    text = f"{number:z.2g}" if 0 < abs(number) < 0.1 else f"{number:z.3f}"
    return ("+" if signed and number > 0 else "") + text.replace("-", "\u2212")


def percent(number: float | None) -> str:
    """A share in percent; a dash for null."""
    return NONE if number is None else f"{100 * number:z.0f}\u00a0%"


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def markdown(text: str) -> str:
    """Data inside Markdown: one line, no HTML and no table breaks."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(escaped.replace("|", "\\|").split())
