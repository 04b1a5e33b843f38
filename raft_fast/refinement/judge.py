"""Judging: every judge scores every fusion in [0, 1]; a failure is an error, never a 0."""

import json
import math
from collections.abc import Callable, Sequence

from raft_fast.dataset import Row
from raft_fast.engines import Reply
from raft_fast.refinement.decisions import Tokens, Verdict
from raft_fast.refinement.prompting import ask_once, load_prompt, whole_question
from raft_fast.refinement.roles import Part


def judge(
    rows: Sequence[Row], answers: Sequence[str], judges: Sequence[Part],
    advance: Callable[[int], None],
) -> list[list[Verdict]]:
    """For each answer the verdicts of all judges, in the judges' order."""
    prompt = load_prompt("judge")
    conversations = [
        ask_once(prompt.fill(question=whole_question(row.prompt), gold=row.gold, answer=answer))
        for row, answer in zip(rows, answers, strict=True)
    ]
    by_judge = [
        [_verdict(one.name, reply)
         for reply in one.ask("judge", conversations, None, prompt, advance)]
        for one in judges
    ]
    return [list(verdicts) for verdicts in zip(*by_judge, strict=True)]


def _verdict(name: str, reply: Reply) -> Verdict:
    """Read what `Engine.score` promises: {"score": s} with s in [0, 1], or an error."""
    tokens = Tokens.of(reply)
    if reply.error is not None:
        return Verdict(name, None, reply.error, tokens)
    score = float(json.loads(reply.text)["score"])
    if not (math.isfinite(score) and 0 <= score <= 1):
        return Verdict(name, None, f"score {reply.text} is not in [0, 1]", tokens)
    return Verdict(name, score, None, tokens)
