"""The student's own trajectories: engines that sample them, and the buffer between sampling and training."""

from raft_fast.distillation.rollouts.base import Draw, RolloutEngine, Trajectory, make_engine
from raft_fast.distillation.rollouts.buffer import RolloutBuffer

__all__ = ["Draw", "RolloutBuffer", "RolloutEngine", "Trajectory", "make_engine"]
