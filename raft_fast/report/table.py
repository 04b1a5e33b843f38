"""The table of domain against general, on the terminal."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from raft_fast.report.names import LABELS, TITLES, judgement, measured, with_interval
from raft_fast.report.text import percent, value

WIDTH_OF_FILES = 120  # a log file has no width of its own


def print_table(result: dict[str, Any]) -> None:
    """Print what `evaluate` returned to stdout: means with 95 % intervals, change, retention, n."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_OF_FILES)
    table = Table(title="Domain and general behaviour, 95 % intervals", title_justify="left")
    table.add_column("")
    for column in ("base", "trained", "change", "kept", "n"):
        table.add_column(column, justify="right")
    table.add_column("")
    for part in TITLES:
        for name, metric in measured(result.get(part)):
            reworded = " (reworded)" if part == "paraphrases" else ""
            table.add_row(LABELS[name] + reworded, with_interval(metric["base"]),
                          with_interval(metric["trained"]), with_interval(metric["change"], signed=True),
                          percent(metric["retention"]) if "retention" in metric else "",
                          str(metric["base"]["n"]), judgement(metric))
        table.add_section()
    console.print(table, markup=False)
    if jury := result.get("jury"):
        told = jury["agreement"]
        console.print(f"jury of {len(jury['judges'])}: {percent(told['unanimous'])} of the votes unanimous, "
                      f"Krippendorff's alpha {value(told['krippendorff_alpha'])}", markup=False)
    for task, metrics in (result.get("lm_eval") or {"tasks": {}})["tasks"].items():
        for name, one in metrics.items():
            console.print(f"lm-eval {task} {name.removesuffix(',none')}: {value(one['base']['mean'])} to "
                          f"{value(one['trained']['mean'])}", markup=False)
    if result.get("general_skipped"):
        console.print(f"general: left out ({result['general_skipped']})", markup=False)
