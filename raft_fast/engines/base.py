"""The protocol every engine speaks: conversations in, replies out, in any order."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from raft_fast.data.texts import Message

TOO_LONG = "too long for the model's context"
FILTERED = "the server's content filter held the reply back"
UNRENDERED = "the model's chat template does not take it"
OF_ONE_REQUEST = (TOO_LONG, FILTERED, UNRENDERED)
"""How errors begin that say nothing of what the engine would answer to another request."""


@dataclass(frozen=True)
class Sampling:
    """How to draw a reply. temperature 0 is greedy; the seed makes a draw repeatable."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """One reply. finish_reason is "stop" or "length"; error is set if the engine gave none.

    Tokens are what was paid for, second attempts included; `seconds` is the engine's time for it
    (of a batch its share, of a server the time until it answered, waiting between attempts left out).
    `score` is what was asked for in place of a text: a score in [0, 1], or a likelihood in nats. `key` names
    the reply's line in the journal, once it has one.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None
    seconds: float = 0.0
    score: float | None = None
    key: str | None = None


@dataclass(frozen=True)
class Price:
    """What a million tokens cost, in whatever currency the user thinks in."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What these tokens cost."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


class WindDown(KeyboardInterrupt):
    """Asks an engine for what is in flight where nobody is in a hurry: a part of the run failed."""


class Engine(Protocol):
    """A language model that answers conversations.

    `identity` names the model and its revision: two engines with one identity give the same
    replies, so it is part of every cache key. `price` is None where nobody told.

    Conversations are read in the caller's thread and only a bounded number ahead of the replies, so
    an iterator over any number of rows is fine. Several threads may ask one engine at once.

    A KeyboardInterrupt thrown into the iterator asks for what is in flight: the engine begins nothing
    new, yields what it still gets, and raises it again. It keeps a user waiting for no longer than it
    must; with WindDown it waits for all of it.

    While a thread is inside the iterator nothing can be thrown into it. An engine that keeps one there for
    long has a method `interrupt(how: KeyboardInterrupt)`, which does the same to every call that is not
    over, from another thread. One whose replies are long in coming has a method `under_way() -> str`, which
    tells any thread in a few words what it is at; empty where it is at nothing.
    """

    identity: str
    price: Price | None

    def generate(
        self, conversations: Iterable[list[Message]], sampling: Sampling
    ) -> Iterator[tuple[int, Reply]]:
        """Yield (index into conversations, reply) as replies finish; each index exactly once.

        Raises UserError where the engine as a whole is at fault, after yielding what it had."""
        ...

    def score(self, conversations: Iterable[list[Message]]) -> Iterator[tuple[int, Reply]]:
        """As `generate`, for conversations that ask for a score: `Reply.score` in [0, 1], and the text that
        it was read from in `Reply.text`, if any; or `Reply.error` says why there is none."""
        ...


def hand_over(replies: Iterable[tuple[int, Reply]]) -> Iterator[tuple[int, Reply]]:
    """Replies that are there already; a KeyboardInterrupt waits until all of them are taken."""
    rest = iter(replies)
    try:
        for one in rest:  # noqa: UP028 (`yield from` would pass the interrupt on to `replies`)
            yield one
    except KeyboardInterrupt:
        yield from rest
        raise


def valid(text: str) -> str:
    """The text with U+FFFD for half characters (lone surrogates), which no file and no tokenizer takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def stable_seed(*parts: Any) -> int:
    """A 63-bit seed from anything JSON can say; the same on every machine and run."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
