"""The rows of a step: as token ids by term, counted over the whole step, cut into micro-batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raft_fast.models.chat import View
from raft_fast.models.packing import consecutive


@dataclass(frozen=True)
class Reading:
    """Tokens that a term scores, as the student reads them and, for a taught term, as the teacher does.

    Raises AssertionError unless both views hold the very same completion.
    """

    student: View
    teacher: View | None = None

    def __post_init__(self) -> None:
        if self.teacher and self.student.completion != self.teacher.completion:
            raise AssertionError("student and teacher views hold different completions")


@dataclass(frozen=True)
class Example:
    """One row of a step: what each term reads of it, by the term's name. Empty trajectories are left out."""

    readings: Mapping[str, Sequence[Reading]]

    def of(self, term: str) -> Sequence[Reading]:
        return self.readings.get(term, ())

    @property
    def students(self) -> list[View]:
        return [reading.student for readings in self.readings.values() for reading in readings]

    @property
    def teachers(self) -> list[View]:
        return [reading.teacher for readings in self.readings.values() for reading in readings
                if reading.teacher]

    @property
    def tokens(self) -> int:
        """What the student reads, prompts included."""
        return sum(len(view.ids) for view in self.students)


@dataclass(frozen=True)
class Count:
    """How many completions, and tokens of them, there are."""

    sequences: int = 0
    tokens: int = 0

    @classmethod
    def of(cls, views: Sequence[View]) -> "Count":
        return cls(len(views), completion_tokens(views))


@dataclass(frozen=True)
class Counts:
    """What a whole step holds: its losses divide by these, so that micro-batches change nothing.

    terms: what each term scores. taught: what the teacher scores. tokens: what the student reads.
    """

    terms: Mapping[str, Count]
    taught: Count
    tokens: int

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Counts":
        names = dict.fromkeys(name for example in examples for name in example.readings)
        return cls({name: Count.of([reading.student for example in examples for reading in example.of(name)])
                    for name in names},
                   Count.of([view for example in examples for view in example.teachers]),
                   sum(example.tokens for example in examples))

    def __getitem__(self, term: str) -> Count:
        return self.terms.get(term, Count())


@dataclass(frozen=True)
class Limits:
    """The most that a micro-batch holds: rows, and student tokens (0: as many as the rows have)."""

    rows: int
    tokens: int = 0

    def cut(self, examples: Sequence[Example]) -> list[list[Example]]:
        """Micro-batches, rows in their order; a row above the limit is a micro-batch of its own."""
        lengths = [example.tokens for example in examples]
        groups = consecutive(lengths, self.tokens or sum(lengths), self.rows)
        return [[examples[index] for index in group] for group in groups]


def completion_tokens(views: Sequence[View]) -> int:
    return sum(len(view.completion) for view in views)
