"""The memory estimate as a table, with advice where it will not fit."""

from rich.table import Table

from raft_fast.distillation import Estimate
from raft_fast.distillation.out_of_memory import ADVICE
from raft_fast.run.progress import console

GIB = 1 << 30


def show_memory(found: Estimate) -> None:
    """A line a part, and a warning where the sum is more than is free. An allocator may keep more (docs/
    PERFORMANCE.md), and less may be needed, so the run goes on."""
    table = Table("memory of training, about", "GiB", title_justify="left")
    table.add_row("models, loaded", _gib(found.loaded))
    for part, size in found.staying.items():
        table.add_row(part, _gib(size))
    for part, size in found.passing.items():
        table.add_row(f"{part} (they take turns)", _gib(size))
    table.add_row("to be had beyond the models", _gib(found.needed), style="bold")
    table.add_row("free", _gib(found.free), style="bold" if found.fits else "bold red")
    console.print(table)
    if not found.fits:
        console.print(f"this will probably not fit: {ADVICE}", markup=False, soft_wrap=True, style="red")


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
