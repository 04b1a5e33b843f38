"""Texts as words, and which sequences of them two texts share."""

import re
from collections.abc import Sequence

from raft_fast.data.texts import letters

GRAM_WORDS = 13  # long enough that two people seldom write it alike (Brown et al. 2020, appendix C)
# scripts that are written without spaces: each sign is a word
UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


def words(text: str) -> list[str]:
    """The words of a text, without case, punctuation and compatibility forms."""
    return WORD.findall(letters(text))


def same_key(text: str) -> str:
    """Equal for texts of the same words; a text without any is itself."""
    return " ".join(words(text)) or text.strip()


def grams(said: Sequence[str]) -> set[int]:
    """Every sequence of 13 words, hashed; a shorter text is one sequence. Empty without words.

    Hashes hold for this process alone.
    """
    if not said:
        return set()
    return {hash(tuple(said[at : at + GRAM_WORDS])) for at in range(max(len(said) - GRAM_WORDS, 0) + 1)}
