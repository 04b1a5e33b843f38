"""Rows that are there twice, and training rows that give the test away."""

from dataclasses import dataclass
from typing import Literal

from raft_fast.run.options.check import check

Action = Literal["flag", "drop", "off"]


@dataclass
class ScreenOptions:
    """Duplicates and overlap"""

    duplicates: Action = "flag"
    """Rows that ask what an earlier row asks, in the same or nearly the same words: flag them in screen.json,
    drop them, or off."""
    overlap: Action = "flag"
    """Rows that repeat a prompt of an evaluation suite (train: or a held-out row): as --duplicates. What
    rows are compared with is never dropped."""
    duplicate_similarity: float = 0.97
    """Questions whose cosine similarity is at least this are nearly the same; it depends on the encoder."""
    overlap_share: float = 0.5
    """Share of the shorter text's 13-word sequences from which on two texts overlap."""

    def __post_init__(self) -> None:
        for name in ("duplicate_similarity", "overlap_share"):
            check(0 < getattr(self, name) <= 1, f"--{name}", getattr(self, name), "above 0 and at most 1")
