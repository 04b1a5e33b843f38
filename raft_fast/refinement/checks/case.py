"""What a check sees of one answer, and how it counts words."""

import re
from dataclasses import dataclass
from functools import lru_cache

from raft_fast.engines import Reply

# scripts without spaces between words count by character
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f]|[^\W_]+(?:['’][^\W_]+)*")


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


@lru_cache(maxsize=1 << 8)  # every check wants those of the answer at hand
def words(text: str) -> tuple[str, ...]:
    """The words of a text, without case and punctuation."""
    return tuple(WORD.findall(text.casefold().replace("’", "'")))
