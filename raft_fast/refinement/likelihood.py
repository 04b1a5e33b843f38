"""How likely the rewriter finds the answers: the supervision-compatibility gap, row by row.

RAFT's premise is that a model bends least to answers it might have given itself. Their negative
log-likelihood under the untouched model says how near they are, before training and for the price of
a forward pass.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

from raft_fast.data.texts import Message
from raft_fast.engines import Engine, Reply, Sampling
from raft_fast.engines.journal import Journal, Listener
from raft_fast.refinement.decisions import Decision

VERSION = "nll-1"  # of what is asked; part of the journal's keys, as a prompt's version is
DIGITS = 4
SERVER = "the rewriter is a server, which shows no likelihoods"
OFF = "--supervision_gap is off"


class ScoringEngine(Protocol):
    """An engine that knows how likely a given answer is; those in this process do."""

    def nll(
        self, conversations: Sequence[list[Message]], completions: Sequence[str]
    ) -> Iterator[tuple[int, tuple[float, int]]]:
        """Yield (index, (negative log-likelihood in nats, tokens))."""
        ...


def why_not(rewriter: Engine, wanted: bool) -> str | None:
    """Why there will be no likelihoods, where there will be none."""
    if not wanted:
        return OFF
    return None if hasattr(rewriter, "nll") else SERVER


class Likelihoods:
    """Adds to decisions the mean nats a token of gold, rewrite and chosen fusion, given the prompt."""

    def __init__(self, rewriter: Engine, journal: Journal, heard: Listener) -> None:
        self._engine, self._journal, self._heard = _Reader(rewriter), journal, heard

    def __call__(self, decisions: Sequence[Decision]) -> list[Decision]:
        """The same decisions with their likelihoods; what cannot be had is null."""
        wanted = [(place, name, text) for place, one in enumerate(decisions)
                  for name, text in _answers(one).items() if text]
        asked = [[*decisions[place].filtered.row.prompt, Message(role="assistant", content=text)]
                 for place, _, text in wanted]
        replies = self._journal.ask("nll", self._engine, asked, None, VERSION, self._heard)
        found: list[dict[str, float | None]] = [
            dict.fromkeys(("gold", "rewrite", "fused")) for _ in decisions]
        for (place, name, _), reply in zip(wanted, replies, strict=True):
            if reply.error is None:
                told = json.loads(reply.text)
                found[place][name] = round(told["nats"] / told["tokens"], DIGITS)
        return [replace(one, nll=nll) for one, nll in zip(decisions, found, strict=True)]


def _answers(decision: Decision) -> dict[str, str | None]:
    filtered = decision.filtered
    return {"gold": filtered.row.gold, "rewrite": filtered.rewrite.text,
            "fused": decision.answer if decision.source == "fused" else None}


class _Reader:
    """The rewriter as an engine whose scores are likelihoods, so that the journal keeps them."""

    price: Any = None

    def __init__(self, engine: Engine) -> None:
        self.engine, self.identity = cast(ScoringEngine, engine), engine.identity

    def generate(
        self, conversations: Iterable[list[Message]], sampling: Sampling
    ) -> Iterator[tuple[int, Reply]]:
        raise NotImplementedError("it reads answers and writes none")

    def score(self, conversations: Iterable[list[Message]]) -> Iterator[tuple[int, Reply]]:
        """`Reply.text` is {"nats": sum, "tokens": count} for each conversation's last turn."""
        asked = list(conversations)
        found = self.engine.nll([messages[:-1] for messages in asked],
                                [messages[-1]["content"] for messages in asked])
        for index, (nats, tokens) in found:
            if not math.isfinite(nats):
                yield index, Reply("", error="no finite likelihood")
            else:
                yield index, Reply(json.dumps({"nats": nats, "tokens": tokens}))
