"""Rows that repeat each other, held-out rows or evaluation suites: found, told, dropped where asked to."""

from raft_fast.data.screening.references import Reference, rows_as_references
from raft_fast.data.screening.screen import Screened, screen

__all__ = ["Reference", "Screened", "rows_as_references", "screen"]
