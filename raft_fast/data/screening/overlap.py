"""Rows that repeat a held-out row or a prompt of an evaluation suite, in words or in meaning."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from raft_fast.data.dataset import Row
from raft_fast.data.neighbours import build_index
from raft_fast.data.screening.findings import Finding
from raft_fast.data.screening.near import BLOCK, DIGITS
from raft_fast.data.screening.questions import Questions, question
from raft_fast.data.screening.references import Reference
from raft_fast.data.screening.words import grams, same_key, words
from raft_fast.data.vectors import SentenceEncoder, embed_to_file

LONGER = 2


def overlap(
    rows: Collection[Row], questions: Questions, references: Sequence[Reference], encoder: SentenceEncoder,
    path: Path, least: float, share: float, advance: Callable[[int], None] = lambda steps: None,
) -> Iterator[Finding]:
    """The nearest reference of every row, by each measure that says that it is too near.

    Words: question and answer share at least `share` of the shorter one's 13-word sequences. Meaning: the
    questions are of the same words, or their similarity is at least `least`. Of the references alone
    something stays in memory.
    """
    if not references:
        return
    shared = SharedWords(references)
    nearest, scores = _nearest(questions, references, encoder, path, advance)
    for place, row in enumerate(rows):
        which = questions.number[place]
        if (said := shared.best(row)) is not None and said[1] >= share:
            yield Finding(place, "overlap", references[said[0]].name, "ngrams", said[1])
        if (same := shared.same_question(row)) is not None:
            yield Finding(place, "overlap", references[same].name, "same_words", 1.0)
        elif scores[which] >= least:
            yield Finding(place, "overlap", references[nearest[which]].name, "similarity", scores[which])
        advance(1)


class SharedWords:
    """References by the sequences of words in them."""

    def __init__(self, references: Sequence[Reference]) -> None:
        self._holders: dict[int, list[int]] = defaultdict(list)  # a sequence -> the references that hold it
        self._counts: list[int] = []
        self._same: dict[str, int] = {}
        for number, one in enumerate(references):
            found = grams(words(f"{one.question}\n{one.answer}"))
            self._counts.append(len(found))
            self._same.setdefault(same_key(one.question), number)
            for gram in found:
                self._holders[gram].append(number)

    def best(self, row: Row) -> tuple[int, float] | None:
        """(reference, share of the shorter one's sequences that both have); None where none is shared."""
        found = grams(words(f"{question(row)}\n{row.gold}"))
        common = Counter(number for gram in found for number in self._holders.get(gram, ()))
        if not common:
            return None
        shares = ((count / min(len(found), self._counts[number]), -number)
                  for number, count in common.items())
        share, number = max(shares)
        return -number, round(share, DIGITS)

    def same_question(self, row: Row) -> int | None:
        """The first reference whose question has the words of the row's."""
        return self._same.get(same_key(question(row)))


def _nearest(
    questions: Questions, references: Sequence[Reference], encoder: SentenceEncoder, path: Path,
    advance: Callable[[int], None],
) -> tuple["array[int]", "array[float]"]:
    """For every question the nearest reference and its cosine similarity."""
    # one far longer than any question is not nearly the same, and long ones take long to embed
    known = [number for number, one in enumerate(references)
             if len(one.question) <= LONGER * questions.longest]
    nearest, scores = array("q"), array("d")
    if not known:
        return array("q", [0]) * len(questions.vectors), array("d", [0.0]) * len(questions.vectors)
    texts = [references[number].question for number in known]
    index = build_index(embed_to_file(lambda: texts, len(texts), encoder, path, advance), encoder.device)
    for begin in range(0, len(questions.vectors), BLOCK):
        found = index.search(np.array(questions.vectors[begin : begin + BLOCK]), 1)
        nearest.extend(known[id_] for id_ in found.ids[:, 0].tolist())
        scores.extend(round(score, DIGITS) for score in found.scores[:, 0].tolist())
    return nearest, scores
