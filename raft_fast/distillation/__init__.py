"""Stage 2: the student samples, the teacher answers, two losses are balanced."""

from raft_fast.distillation.callbacks import Callback, TrainingState
from raft_fast.distillation.loop import fitting, plan, train
from raft_fast.distillation.metrics import StepsInProgress
from raft_fast.distillation.stopping import SoftStop
from raft_fast.distillation.teacher import Teacher

__all__ = ["Callback", "SoftStop", "StepsInProgress", "Teacher", "TrainingState", "fitting", "plan", "train"]
