"""The rows of a step: as token ids by term, and counted over the whole step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raft_fast.models.chat import View


@dataclass(frozen=True)
class Reading:
    """Tokens that a term scores, as the student reads them and, for a taught term, as the teacher does.

    Raises AssertionError unless both views hold the very same completion."""

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


@dataclass(frozen=True)
class Counts:
    """What a whole step holds: its losses divide by these, so that micro-batches change nothing.

    terms: what each term scores. taught: what the teacher scores. tokens: what the student reads."""

    terms: Mapping[str, Count]
    taught: Count
    tokens: int

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Counts":
        names = dict.fromkeys(name for example in examples for name in example.readings)
        views = {name: [one.student for example in examples for one in example.of(name)] for name in names}
        taught = [view for example in examples for view in example.teachers]
        return cls({name: Count(len(own), completion_tokens(own)) for name, own in views.items()},
                   Count(len(taught), completion_tokens(taught)), sum(example.tokens for example in examples))

    def __getitem__(self, term: str) -> Count:
        return self.terms.get(term, Count())


def completion_tokens(views: Sequence[View]) -> int:
    return sum(len(view.completion) for view in views)
