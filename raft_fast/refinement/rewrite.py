"""Self-conditioned rewriting (Eq. 1)."""

from collections.abc import Sequence

from raft_fast.data.dataset import Row
from raft_fast.data.texts import Message
from raft_fast.engines import Sampling
from raft_fast.engines.journal_lines import Recorded
from raft_fast.engines.prompting import Prompt, in_context, last_question
from raft_fast.refinement.roles import Part


def rewrite(
    rows: Sequence[Row], rewriter: Part, sampling: Sampling, prompt: Prompt
) -> list[Recorded]:
    """ỹ ~ p_θ(· | x, y): the instruct model answers each question with the gold answer in sight."""
    return rewriter.ask("rewrite", [rewrite_request(row, prompt) for row in rows], sampling, prompt)


def rewrite_request(row: Row, prompt: Prompt) -> list[Message]:
    """What the rewriter is asked, as the last turn of the row's own conversation."""
    asked = prompt.fill(question=last_question(row.prompt), answer=row.gold)
    return in_context(row.prompt, asked)
