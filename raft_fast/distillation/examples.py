"""The rows of a step: as token ids, counted over the whole step, cut into micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass

from raft_fast.models.chat import View
from raft_fast.models.packing import consecutive


@dataclass(frozen=True)
class Example:
    """One row of a step: its SFT view and the trajectory as student and teacher see it.

    A view is None where its term is off or the trajectory is empty.
    """

    sft: View | None
    student: View | None
    teacher: View | None

    def check(self) -> None:
        """Both sides must score the very same tokens."""
        if self.student and self.teacher and self.student.completion != self.teacher.completion:
            raise AssertionError("student and teacher views hold different completions")

    @property
    def tokens(self) -> int:
        """What the student reads, prompts included."""
        return sum(len(view.ids) for view in (self.sft, self.student) if view)


@dataclass(frozen=True)
class Counts:
    """What a whole step holds: its losses divide by these, so that micro-batches change nothing."""

    sft_tokens: int
    trajectories: int
    trajectory_tokens: int
    tokens: int

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Counts":
        trajectories = [example.student for example in examples if example.student]
        return cls(completion_tokens([example.sft for example in examples if example.sft]),
                   len(trajectories), completion_tokens(trajectories),
                   sum(example.tokens for example in examples))

    @property
    def nothing(self) -> bool:
        """Whether there is no term at all: every completion is empty."""
        return not self.sft_tokens and not self.trajectories

    @property
    def both(self) -> bool:
        """Whether there are two terms to balance."""
        return bool(self.sft_tokens and self.trajectories)


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
