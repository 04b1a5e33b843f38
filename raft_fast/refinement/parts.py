"""The parts of a recipe's stage 1: proposers return candidates, critics add scores and objections to them and
never choose. Everything that an engine is asked goes through the journal."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from raft_fast.data.dataset import Row
from raft_fast.data.texts import Message
from raft_fast.engines import Reply
from raft_fast.engines.asking import Part, Prompt, ask_once, at_once, in_context, whole_question
from raft_fast.refinement.bench import Workbench
from raft_fast.refinement.candidates import FUSED, JUDGE, NLL, REWRITE, SIMILARITY, Candidate, Verdict, mean
from raft_fast.refinement.checks import RETRIEVAL, Case

SIMILARITY_DIGITS, NLL_DIGITS = 6, 4
NLL_VERSION = "nll-1"  # of what is asked; part of the journal's keys, as a prompt's version is


def rewrite(rows: Sequence[Row], bench: Workbench) -> list[Candidate]:
    """Eq. 1: ỹ ~ p_θ(· | x, y). The instruct model answers each question with the gold answer in sight."""
    prompt = bench.prompts.rewrite
    replies = bench.rewriter.ask("rewrite", [rewrite_request(row, prompt) for row in rows], bench.sampling,
                                 prompt)
    return [Candidate(row, REWRITE, 1, reply) for row, reply in zip(rows, replies, strict=True)]


def fuse(rewrites: Sequence[Candidate], number: int, bench: Workbench) -> list[Candidate]:
    """Fusion `number` of y and ȳ for each rewrite, drawn with the seed `seed + number`."""
    assert bench.fuser is not None
    prompt, sampling = bench.prompts.fuse, bench.sampling
    replies = bench.fuser.ask("fuse", [fuse_request(one.row, one.text, prompt) for one in rewrites],
                              replace(sampling, seed=sampling.seed + number), prompt)
    return [Candidate(one.row, FUSED, number, reply) for one, reply in zip(rewrites, replies, strict=True)]


def rewrite_request(row: Row, prompt: Prompt) -> list[Message]:
    """What the rewriter is asked, as the last turn of the row's own conversation."""
    return in_context(row.prompt, prompt.fill(question=row.prompt[-1]["content"], answer=row.gold))


def fuse_request(row: Row, text: str, prompt: Prompt) -> list[Message]:
    """What the fuser is asked."""
    return ask_once(prompt.fill(question=whole_question(row.prompt), gold=row.gold, rewrite=text))


def judge_request(row: Row, answer: str, prompt: Prompt) -> list[Message]:
    """What a judge is asked about an answer."""
    return ask_once(prompt.fill(question=whole_question(row.prompt), gold=row.gold, answer=answer))


def criticise(candidates: Sequence[Candidate], bench: Workbench, prompt: Prompt, tau: float | None,
              option: str = "--tau", retrieval: bool = False) -> None:
    """Eqs. 2-3: the checks, and s = cos(φ(y), φ(ỹ)) ≥ `tau`, which `option` sets (None: any s). With
    `retrieval` no other row's gold answer may be nearer. `prompt` is what candidates were written with."""
    rows, vectors = [one.row for one in candidates], bench.encoder.embed([one.text for one in candidates])
    gold_vectors = (bench.golds.of(rows) if bench.golds is not None else
                    bench.encoder.embed([row.gold for row in rows]))
    found = bench.golds.objections(gold_vectors, vectors) if retrieval and bench.golds is not None else None
    for place, similarity in enumerate(cosines(gold_vectors, vectors)):
        one = candidates[place]
        case = Case(whole_question(one.row.prompt), one.row.gold, one.reply, prompt.text)
        one.scores[SIMILARITY] = similarity
        one.objections.update(bench.check(case))
        if tau is not None:
            one.objections[SIMILARITY] = (
                "no similarity to the gold answer" if similarity is None else
                f"similarity {similarity:.3f} is below {option} {tau:g}" if similarity < tau else None)
        if found is not None:
            one.objections[RETRIEVAL] = found[place] if similarity is not None else None


def cosines(left: np.ndarray, right: np.ndarray) -> list[float | None]:
    """Eq. 2 for unit vectors, float32 [n, D] each; None if either is zero: φ made nothing of the text."""
    values = (left.astype(np.float64) * right).sum(-1)
    known = np.isfinite(values) & left.any(-1) & right.any(-1)
    return [round(float(value), SIMILARITY_DIGITS) if there else None
            for value, there in zip(values, known, strict=True)]


def judge(candidates: Sequence[Candidate], bench: Workbench) -> None:
    """Eq. 4: every judge scores every candidate without objections; their mean counts from the quorum on."""
    asked = [one for one in candidates if one.passed]
    if not asked:
        return
    found = verdicts([one.row for one in asked], [one.text for one in asked], bench.judges,
                     bench.prompts.judge)
    for one, said in zip(asked, found, strict=True):
        one.verdicts = said
        one.scores[JUDGE] = mean(one.given) if len(one.given) >= bench.quorum else None


def verdicts(rows: Sequence[Row], answers: Sequence[str], judges: Sequence[Part],
             prompt: Prompt) -> list[list[Verdict]]:
    """For each answer the verdicts of all judges, in the judges' order; they work at the same time."""
    requests = [judge_request(row, answer, prompt) for row, answer in zip(rows, answers, strict=True)]

    def ask(one: Part) -> list[Verdict]:
        return [_verdict(one.name, reply) for reply in one.ask("judge", requests, None, prompt)]

    by_judge = at_once(ask, judges, len(judges), judges[0].journal.stop)
    return [list(found) for found in zip(*by_judge, strict=True)]


def _verdict(name: str, reply: Reply) -> Verdict:
    """A failure is an error, never a 0."""
    if reply.error is None and not (reply.score is not None and 0 <= reply.score <= 1):
        reply = replace(reply, error=f"score {reply.score} is not in [0, 1]", score=None)
    return Verdict(name, reply.score, reply.error, reply)


def likelihoods(candidates: Sequence[Candidate], bench: Workbench) -> None:
    """The mean nats a token of each text under the rewriter, given the prompt; None if not finite. How near
    answers are to what the model might have said itself. Does nothing with a server, which shows none."""
    part = bench.rewriter
    if not bench.options.supervision_gap or not hasattr(part.engine, "nll"):
        return
    asked = [one for one in candidates if one.text]
    turns = [[*one.row.prompt, Message(role="assistant", content=one.text)] for one in asked]
    replies = part.journal.ask("nll", _reader(part.engine), turns, None, NLL_VERSION)
    for one, reply in zip(asked, replies, strict=True):
        one.scores[NLL] = (None if reply.score is None
                           else round(reply.score / reply.completion_tokens, NLL_DIGITS))


def _reader(engine: Any) -> Any:
    """The rewriter as an engine whose scores are the nats of a conversation's last turn, for the journal."""
    def score(conversations: Sequence[list[Message]]) -> Iterator[tuple[int, Reply]]:
        found = engine.nll([turns[:-1] for turns in conversations],
                           [turns[-1]["content"] for turns in conversations])
        for index, (nats, tokens) in found:
            yield index, (Reply("", completion_tokens=tokens, score=nats) if math.isfinite(nats)
                          else Reply("", error="no finite likelihood"))

    return SimpleNamespace(identity=engine.identity, score=score)
