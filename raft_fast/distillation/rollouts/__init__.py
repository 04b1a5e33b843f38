"""The student's own trajectories: who samples them, and the buffer between sampling and training."""

from raft_fast.distillation.rollouts.base import Draw, RolloutEngine, Trajectory
from raft_fast.distillation.rollouts.buffer import RolloutBuffer
from raft_fast.distillation.rollouts.choose import make_engine

__all__ = ["Draw", "RolloutBuffer", "RolloutEngine", "Trajectory", "make_engine"]
