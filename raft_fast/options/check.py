"""Refusing a value in one line that names the option."""

from typing import Any

from raft_fast.errors import UserError


def check(holds: bool, option: str, value: Any, must: str) -> None:
    """Raises UserError where `holds` is false."""
    if not holds:
        raise UserError(f"{option} {value}: must be {must}")
