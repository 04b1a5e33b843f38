"""What options have in common: lists of names, and refusing a value in one line that names the option."""

from dataclasses import field
from typing import Any

from raft_fast.run.errors import UserError


def listed(default: str | None) -> Any:
    """A field of names with commas between them; command line and YAML may give a list instead."""
    return field(default=default, metadata={"listed": True})


def check(holds: bool, option: str, value: Any, must: str) -> None:
    """Raises UserError where `holds` is false."""
    if not holds:
        raise UserError(f"{option} {value}: must be {must}")
