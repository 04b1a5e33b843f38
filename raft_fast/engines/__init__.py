"""Text generation behind one small protocol; engines know nothing of RAFT."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from raft_fast.data.texts import Message

TOO_LONG = "too long for the model's context"
FILTERED = "the server's content filter held the reply back"
UNRENDERED = "the model's chat template does not take it"
OF_ONE_REQUEST = (TOO_LONG, FILTERED, UNRENDERED)
"""Beginnings of errors that say nothing about other requests to the same engine."""


@dataclass(frozen=True)
class Sampling:
    """How to draw a reply. temperature 0 is greedy; the seed makes a draw repeatable."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """One reply. finish_reason is "stop" or "length"; error is set if the engine gave none.

    Tokens are what was paid for, second attempts included. `score` is what was asked for instead of a text: a
    score in [0, 1], or a likelihood in nats. `key` names the reply's line in the journal, once it has one."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None
    score: float | None = None
    key: str | None = None


Replies = Iterator[tuple[int, Reply]]
"""(index into the conversations, reply)"""
Conversations = Sequence[list[Message]]


class Engine(Protocol):
    """A language model that answers conversations.

    `identity` names the model and its revision: engines of one identity give the same replies, so it is part
    of every cache key. Several threads may use one engine at once.

    On a KeyboardInterrupt thrown into the iterator an engine starts nothing new, yields the replies that are
    in flight at a server, and raises it again. `interrupt()` is optional: from any thread it does the same to
    every call that is not over; a model of this process ends at its next token."""

    identity: str

    def generate(self, conversations: Conversations, sampling: Sampling) -> Replies:
        """Yield replies as they finish; each index exactly once. Raises UserError if the engine as a whole
        fails, after yielding the replies it had."""
        ...

    def score(self, conversations: Conversations) -> Replies:
        """As `generate`, for conversations that ask for a score: `Reply.score` in [0, 1], or an error."""
        ...


def valid(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which no file and no tokenizer takes, and for the private
    characters that `raft_fast.models.template` keeps for itself."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return re.sub("[\U00100000-\U0010FFFF]", "\N{REPLACEMENT CHARACTER}", whole)


def stable_seed(*parts: Any) -> int:
    """A 63-bit seed from any JSON values; the same on every machine and run."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
