"""Control marks of a chat format, and marks of thoughts, that came out as text."""

from raft_fast.models.thinking import marks as marks_of
from raft_fast.refinement.checks.case import Case

SHOWN = 3


def marks(case: Case) -> str | None:
    """Marks such as <|im_end|>, [INST] or <think> that the gold answer does not speak of."""
    added = sorted(marks_of(case.answer) - marks_of(case.gold))
    return f"has control marks: {', '.join(added[:SHOWN])}" if added else None
