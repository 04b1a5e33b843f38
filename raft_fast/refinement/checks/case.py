"""What a check sees of one answer, and what checks share."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from raft_fast.engines import Reply

LONGEST, PARTS = 10_000, 300  # characters; numbers and ends of clauses
LOOKED = 40_000  # characters searched for what may stand anywhere
SHOWN = 3
PART = re.compile(r"\d+|[½⅓⅔¼¾⅛⅜⅝⅞.!?;:()\n]")
# scripts without spaces between words count by character
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f]|[^\W_]+(?:['’][^\W_]+)*")
# checks read the same texts many times; about as many as stage 1 has under way at once
remembered = lru_cache(maxsize=1 << 13)


@dataclass(frozen=True)
class Case:
    """An answer held against its gold answer.

    `instructions` is the template that the model was asked with, without what a row puts into it.
    """

    question: str
    gold: str
    reply: Reply
    instructions: str = ""

    @property
    def answer(self) -> str:
        return self.reply.text

    @property
    def too_long(self) -> bool:
        """Whether gold answer or answer are too long to be compared fact by fact."""
        return _too_long(self.gold) or _too_long(self.answer)


Check = Callable[[Case], str | None]
"""Says what is wrong with an answer, or None."""


@remembered
def _too_long(text: str) -> bool:
    return len(text) > LONGEST or sum(1 for _ in PART.finditer(text)) > PARTS


@lru_cache(maxsize=1 << 8)
def words(text: str) -> tuple[str, ...]:
    """The words of a text, without case and punctuation."""
    return tuple(WORD.findall(text.casefold().replace("’", "'")))


def difference(name: str, missing: set[str], added: set[str]) -> str | None:
    """The objection to facts that are lost or made up, or None without any."""
    told = [f"{what} {', '.join(sorted(facts)[:SHOWN])}"
            for what, facts in (("lacks", missing), ("adds", added)) if facts]
    return f"{name}: {'; '.join(told)}" if told else None
