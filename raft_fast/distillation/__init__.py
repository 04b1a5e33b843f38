"""Stage 2: the student samples, the teacher answers, two losses are balanced."""

from raft_fast.distillation.loop import fitting, plan, train
from raft_fast.distillation.teacher import Teacher

__all__ = ["Teacher", "fitting", "plan", "train"]
