"""Stage 1: propose, criticise and choose a domain's training answers (Eqs. 1-4)."""

from raft_fast.refinement.bench import Roles, Stage1, build_roles
from raft_fast.refinement.equations import raft
from raft_fast.refinement.golds import index_golds
from raft_fast.refinement.outputs import add_calibration
from raft_fast.refinement.pipeline import refine

__all__ = ["Roles", "Stage1", "add_calibration", "build_roles", "index_golds", "raft", "refine"]
