"""What a check sees of one answer, and how it counts words."""

import re
from dataclasses import dataclass
from functools import lru_cache

from raft_fast.engines import Reply
from raft_fast.refinement.facts.remembered import remembered

# scripts without spaces between words count by character
PART = re.compile(r"\d+|[.!?;:()\n]")
LONGEST, PARTS = 10_000, 300  # characters; numbers and ends of clauses
LOOKED = 40_000  # characters that are searched for what may stand anywhere
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

    @property
    def too_long(self) -> bool:
        """Whether gold answer or answer say too much to be compared fact by fact in a moment."""
        return _too_long(self.gold) or _too_long(self.answer)


@remembered
def _too_long(text: str) -> bool:
    return len(text) > LONGEST or sum(1 for _ in PART.finditer(text)) > PARTS


@lru_cache(maxsize=1 << 8)  # every check wants those of the answer at hand
def words(text: str) -> tuple[str, ...]:
    """The words of a text, without case and punctuation."""
    return tuple(WORD.findall(text.casefold().replace("’", "'")))
