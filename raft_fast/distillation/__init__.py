"""Stage 2: the student samples, the teacher answers, two losses are balanced."""

from raft_fast.distillation.callbacks import Callback, SoftStop, TrainingState
from raft_fast.distillation.loop import train
from raft_fast.distillation.losses import CrossEntropy, Distillation, Term
from raft_fast.distillation.planning import fitting, plan, rows_per_step, step_count
from raft_fast.distillation.rollouts import Draw, RolloutEngine, Trajectory
from raft_fast.distillation.student import Adapter
from raft_fast.distillation.teacher import Teacher, Teaching
from raft_fast.distillation.weights import FullWeights

__all__ = ["Adapter", "Callback", "CrossEntropy", "Distillation", "Draw", "FullWeights",
           "RolloutEngine", "SoftStop", "Teacher", "Teaching", "Term", "TrainingState", "Trajectory",
           "fitting", "plan", "rows_per_step", "step_count", "train"]
