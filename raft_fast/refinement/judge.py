"""Judging: every judge scores every fusion in [0, 1]; a failure is an error, never a 0."""

import json
import math
from collections.abc import Sequence

from raft_fast.data.dataset import Row
from raft_fast.data.texts import Message
from raft_fast.engines.at_once import at_once
from raft_fast.engines.journal_lines import Recorded
from raft_fast.engines.prompting import Prompt, ask_once, whole_question
from raft_fast.refinement.decisions import Tokens, Verdict
from raft_fast.refinement.roles import Part


def judge(
    rows: Sequence[Row], answers: Sequence[str], judges: Sequence[Part], prompt: Prompt
) -> list[list[Verdict]]:
    """For each answer the verdicts of all judges, in the judges' order; they work at the same time."""
    requests = [judge_request(row, answer, prompt)
                for row, answer in zip(rows, answers, strict=True)]

    def ask(one: Part) -> list[Verdict]:
        return [_verdict(one.name, reply) for reply in one.ask("judge", requests, None, prompt)]

    by_judge = list(at_once(ask, judges, len(judges), judges[0].journal.stop))
    return [list(verdicts) for verdicts in zip(*by_judge, strict=True)]


def judge_request(row: Row, answer: str, prompt: Prompt) -> list[Message]:
    """What a judge is asked about an answer."""
    return ask_once(prompt.fill(question=whole_question(row.prompt), gold=row.gold, answer=answer))


def _verdict(name: str, reply: Recorded) -> Verdict:
    """Read what `Engine.score` promises: {"score": s} with s in [0, 1], or an error."""
    tokens = Tokens.of(reply)
    if reply.error is not None:
        return Verdict(name, None, reply.error, tokens, reply.key)
    score = float(json.loads(reply.text)["score"])
    if not (math.isfinite(score) and 0 <= score <= 1):
        return Verdict(name, None, f"score {reply.text} is not in [0, 1]", tokens, reply.key)
    return Verdict(name, score, None, tokens, reply.key)
