"""Rows that repeat each other, held-out rows or evaluation suites: found, told, dropped where asked to."""

from raft_fast.screening.references import Reference, cached_suites, fetched_suites, rows_as_references
from raft_fast.screening.screen import Screened, screen

__all__ = ["Reference", "Screened", "cached_suites", "fetched_suites", "rows_as_references", "screen"]
