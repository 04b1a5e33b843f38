"""Deterministic stand-ins: engines that answer by a function, an encoder that counts words."""

import json
from collections.abc import Callable, Iterator, Sequence

from raft_fast.dataset import Row
from raft_fast.engines import Message, Reply, Sampling


class StubEngine:
    """Answers with `answer(text of the last turn, seed)`; a number is a score, a Reply itself.

    It remembers what it was asked. `dies_after` replies it raises what is in `death`.
    """

    def __init__(
        self, identity: str, answer: Callable[[str, int], str | float | Reply],
        dies_after: int | None = None, death: type[BaseException] = KeyboardInterrupt,
    ) -> None:
        self.identity, self.answer = identity, answer
        self.dies_after, self.death = dies_after, death
        self.asked: list[list[Message]] = []

    def generate(
        self, conversations: Sequence[list[Message]], sampling: Sampling
    ) -> Iterator[tuple[int, Reply]]:
        for index in reversed(range(len(conversations))):  # replies come in any order
            if self.dies_after is not None and len(self.asked) >= self.dies_after:
                raise self.death
            self.asked.append(conversations[index])
            yield index, self._reply(self.answer(conversations[index][-1]["content"],
                                                 sampling.seed))

    def score(self, conversations: Sequence[list[Message]]) -> Iterator[tuple[int, Reply]]:
        yield from self.generate(conversations, Sampling())

    def _reply(self, answer: str | float | Reply) -> Reply:
        if isinstance(answer, Reply):
            return answer
        text = answer if isinstance(answer, str) else json.dumps({"score": answer})
        return Reply(text, "stop", prompt_tokens=10, completion_tokens=2)


class StubEncoder:
    """Similarity by a table of (gold, answer) pairs; 1 for a pair that is not in it."""

    def __init__(self, table: dict[tuple[str, str], float] | None = None) -> None:
        self.table = table or {}

    def similarities(self, left: Sequence[str], right: Sequence[str]) -> list[float]:
        return [self.table.get(pair, 1.0) for pair in zip(left, right, strict=True)]


def row(row_id: str, question: str = "What?", gold: str = "gold answer") -> Row:
    return Row(row_id, [Message(role="user", content=question)], gold, gold)


