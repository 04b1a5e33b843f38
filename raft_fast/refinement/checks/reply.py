"""Whether there is an answer at all, and all of it."""

from raft_fast.data.rows import blank
from raft_fast.refinement.checks.case import Case

FILTERED = "content_filter"  # what OpenAI-compatible servers say when they withhold the rest


def reply(case: Case) -> str | None:
    """The engine gave none."""
    return f"no reply: {case.reply.error}" if case.reply.error is not None else None


def empty(case: Case) -> str | None:
    """The engine said nothing."""
    return "empty reply" if case.reply.error is None and blank(case.answer) else None


def cut_off(case: Case) -> str | None:
    """The finish reason says that there is more."""
    if case.reply.finish_reason == "length":
        return f"cut off after {case.reply.completion_tokens} tokens"
    if case.reply.finish_reason == FILTERED:
        return "cut off by the server's content filter"
    return None
