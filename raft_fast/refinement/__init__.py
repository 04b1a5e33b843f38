"""Stage 1: rewrite, filter, fuse and judge a domain's answers (Eqs. 1-4)."""

from raft_fast.refinement.calibration import add_calibration
from raft_fast.refinement.pipeline import refine
from raft_fast.refinement.retrieval import index_golds
from raft_fast.refinement.roles import Roles, build_roles

__all__ = ["Roles", "add_calibration", "build_roles", "index_golds", "refine"]
