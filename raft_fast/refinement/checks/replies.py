"""Checks of an answer's form: missing, cut off, copied, out of proportion, stuck, or about its own prompt."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

from raft_fast.data.rows import blank
from raft_fast.models.thinking import marks as marks_of
from raft_fast.refinement.checks.case import LOOKED, SHOWN, Case, words
from raft_fast.refinement.checks.wording import regex

SHORTEST, LONGEST, SLACK = 0.3, 3.0, 60  # answer / gold in characters; a word may become a sentence
REFUSED, LABELLED = 240, 80  # characters in which a refusal, and a label, begins
PERIOD, TIMES, LEAST = 30, 3, 8  # words of a repeated phrase at most, how often, words of it all at least
RUN = 6  # words in a row that are no chance
LETTERS = re.compile(r"([^\W\d_])\1{9,}|((?:[^\W\d_]){2,4}?)\2{7,}")
SENTENCE = re.compile(r"(?<![.!?\n])[.!?\n]+(?:\s|$)")  # a run is tried once, not from each of its marks
LABEL = re.compile(r"^([^\W\d_][^:\n{}]{2,40}:)", re.MULTILINE)  # "First answer:" of a template


def reply(case: Case) -> str | None:
    """The engine failed."""
    return f"no reply: {case.reply.error}" if case.reply.error is not None else None


def empty(case: Case) -> str | None:
    """The engine said nothing."""
    return "empty reply" if case.reply.error is None and blank(case.answer) else None


def cut_off(case: Case) -> str | None:
    """The finish reason says that there is more."""
    return {"length": f"cut off after {case.reply.completion_tokens} tokens",
            "content_filter": "cut off by the server's content filter"}.get(case.reply.finish_reason or "")


def copy(case: Case) -> str | None:
    """The words of the gold answer or of the question, whatever their case and punctuation."""
    for text, name in ((case.gold, "gold answer"), (case.question, "question")):
        if words(case.answer) == words(text):
            return f"the same words as the {name}"
    return None


def length(case: Case) -> str | None:
    """Much shorter than the gold answer: something is missing. Much longer: something is made up."""
    answer, gold = len(case.answer), len(case.gold)
    if (gold > SLACK and answer < SHORTEST * gold) or answer > LONGEST * gold + SLACK:
        return f"{answer / gold:.2g} times as long as the gold answer"
    return None


def refusal(case: Case) -> str | None:
    """It begins by saying that it cannot help, and the gold answer does not."""
    refuses = regex(r"\b%(reply.refusal)s")
    found, there = (refuses.search(text[:REFUSED].replace("’", "'")) for text in (case.answer, case.gold))
    return f"refuses: {found[0]!r}" if found and not there else None


def marks(case: Case) -> str | None:
    """Control marks such as <|im_end|>, [INST] or <think> that the gold answer does not have."""
    added = sorted(marks_of(case.answer) - marks_of(case.gold))
    return f"has control marks: {', '.join(added[:SHOWN])}" if added else None


def loops(case: Case) -> str | None:
    """Letters without end, or a phrase or sentence three times, in the last LOOKED characters: a model that
    is stuck does not come loose."""
    phrase = _stuck(case.answer[-LOOKED:])
    return f"repeats {phrase!r}" if phrase and not _stuck(case.gold[-LOOKED:]) else None


def _stuck(text: str) -> str | None:
    if letters := LETTERS.search(text):
        return letters[0][:20]
    sentences = Counter(" ".join(said) for part in SENTENCE.split(text) if len(said := words(part)) >= 3)
    frequent = next((sentence for sentence, times in sentences.most_common(1) if times >= TIMES), None)
    return _in_a_row(words(text)) or frequent


def _in_a_row(said: Sequence[str]) -> str | None:
    often = Counter(said)
    rows = (len([*row]) for repeated, row in groupby(said, lambda word: often[word] >= TIMES) if repeated)
    if max(rows, default=0) < LEAST:
        return None  # as in most texts
    for period in range(1, min(PERIOD, len(said) // TIMES) + 1):
        run = 0
        for place in range(period, len(said)):
            run = run + 1 if said[place] == said[place - period] else 0
            if run >= max((TIMES - 1) * period, LEAST - period):
                return " ".join(said[place - period + 1 : place + 1])
    return None


def leak(case: Case) -> str | None:
    """It speaks of the texts that it was made from, opens with a label of its prompt, or repeats that."""
    answer, speaks = case.answer[:LOOKED], regex(r"\b%(reply.leak)s")
    if (found := speaks.search(answer)) and not speaks.search(f"{case.gold}\n{case.question}"):
        return f"speaks of its sources: {found[0]!r}"
    opening, gold = answer[:LABELLED].casefold(), case.gold.lstrip()[:LABELLED].casefold()
    for label in LABEL.findall(case.instructions.casefold()):
        if opening.startswith(label) and not gold.startswith(label):
            return f"repeats the prompt's label {label!r}"
    if runs := _runs(answer) & _runs(case.instructions):
        runs -= _runs(case.gold) | _runs(case.question)
    return f"repeats its instructions: {' '.join(min(runs))!r}" if runs else None


@lru_cache(maxsize=16)
def _runs(text: str) -> frozenset[tuple[str, ...]]:
    said = words(text)
    return frozenset(said[at : at + RUN] for at in range(len(said) - RUN + 1))
