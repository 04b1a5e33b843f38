"""Self-conditioned rewriting (Eq. 1)."""

from collections.abc import Callable, Sequence

from raft_fast.dataset import Row
from raft_fast.engines import Reply, Sampling
from raft_fast.refinement.prompting import in_context, last_question, load_prompt
from raft_fast.refinement.roles import Part


def rewrite(
    rows: Sequence[Row], rewriter: Part, sampling: Sampling, advance: Callable[[int], None]
) -> list[Reply]:
    """ỹ ~ p_θ(· | x, y): the instruct model answers each question with the gold answer in sight."""
    prompt = load_prompt("rewrite")
    conversations = [
        in_context(row.prompt, prompt.fill(question=last_question(row.prompt), answer=row.gold))
        for row in rows
    ]
    return rewriter.ask("rewrite", conversations, sampling, prompt, advance)
