"""A model that got stuck and says the same thing over and over."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from raft_fast.refinement.checks.case import LOOKED, Case, words

LONGEST_PERIOD = 30  # words
TIMES = 3  # a phrase this often in a row
WORDS = 8  # that many words of repetition at least: "no, no, no" is emphasis
SENTENCES = 3  # the same sentence this often
LETTERS = re.compile(r"([^\W\d_])\1{9,}|((?:[^\W\d_]){2,4}?)\2{7,}")
SENTENCE = re.compile(r"(?<![.!?\n])[.!?\n]+(?:\s|$)")  # a run is tried once, not from each of its marks


def loops(case: Case) -> str | None:
    """A phrase three times in a row, a sentence three times, or letters without end, in the last LOOKED
    characters: a model that is stuck does not come loose."""
    if (phrase := _stuck(case.answer[-LOOKED:])) is not None and _stuck(case.gold[-LOOKED:]) is None:
        return f"repeats {phrase!r}"
    return None


def _stuck(text: str) -> str | None:
    """What is repeated, where something is."""
    if letters := LETTERS.search(text):
        return letters[0][:20]
    return _phrase_in_a_row(words(text)) or _frequent_sentence(text)


def _phrase_in_a_row(said: Sequence[str]) -> str | None:
    if not _repetitive(said):
        return None
    for period in range(1, min(LONGEST_PERIOD, len(said) // TIMES) + 1):
        run = 0
        for place in range(period, len(said)):
            run = run + 1 if said[place] == said[place - period] else 0
            if run >= max((TIMES - 1) * period, WORDS - period):
                return " ".join(said[place - period + 1 : place + 1])
    return None


def _repetitive(said: Sequence[str]) -> bool:
    """Whether so many words stand in a row that each comes often enough: most texts need no closer look."""
    times = Counter(said)
    return any(often and sum(1 for _ in row) >= WORDS
               for often, row in groupby(said, key=lambda word: times[word] >= TIMES))


def _frequent_sentence(text: str) -> str | None:
    sentences = Counter(" ".join(said) for part in SENTENCE.split(text)
                        if len(said := words(part)) >= SENTENCES)
    if not sentences:
        return None
    sentence, times = sentences.most_common(1)[0]
    return sentence if times >= SENTENCES else None
