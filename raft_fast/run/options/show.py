"""What stage 1 shows, and what it says of the rows it hands on."""

from dataclasses import dataclass

from raft_fast.run.options.check import listed


@dataclass
class ShowOptions:
    """What stage 1 shows"""

    explain: str | None = None
    """A row_id: print what became of this row in --output_dir, and why. Nothing is refined, no
    --data is needed."""


@dataclass
class CardOptions:
    """Dataset card"""

    license: str = "unknown"
    """License of the rows, for the dataset card: a name that the hub knows, such as cc-by-4.0."""
    language: str | None = listed(None)
    """Languages of the rows, for the dataset card: codes separated by commas, such as en,sv."""
