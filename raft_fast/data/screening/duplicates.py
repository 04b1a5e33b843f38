"""Near-duplicate questions: the first row of each group stays."""

from array import array
from collections.abc import Callable, Collection, Iterator

from raft_fast.data.neighbours import build_index
from raft_fast.data.screening.findings import Finding
from raft_fast.data.screening.near import near
from raft_fast.data.screening.questions import Questions

NONE = -1


def duplicates(
    questions: Questions, least: float, device: str, gone: Collection[int],
    advance: Callable[[int], None] = lambda steps: None,
) -> Iterator[Finding]:
    """Rows whose question has the words of an earlier row's, or a similarity of at least `least` to one
    that is kept. Rows at places in `gone` are neither.

    A question near one that is itself a duplicate is none by that: likeness does not travel on.
    """
    number, total = questions.number, len(questions.vectors)
    first = array("q", [NONE]) * total  # place of the first row that asks it
    for place, which in enumerate(number):
        if first[which] == NONE and place not in gone:
            first[which] = place
    like = array("q", [NONE]) * total  # the kept question that it is like; its own number: kept itself
    value = array("d", [1.0]) * total
    found = near(build_index(questions.vectors, device), total, questions.vectors, least)
    for which, others in enumerate(found):  # in the rows' order: an earlier one is kept or not by now
        advance(1)
        if first[which] == NONE:
            continue
        like[which] = which
        for other, score in others:
            if other < which and like[other] == other:
                like[which], value[which] = other, score
                break
    for place, which in enumerate(number):
        kept = like[which]
        if kept == NONE or place in gone or place == first[kept]:
            continue
        same = kept == which
        yield Finding(place, "duplicate", first[kept], "same_words" if same else "similarity", value[which])
