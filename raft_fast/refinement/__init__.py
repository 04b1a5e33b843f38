"""Stage 1: rewrite, filter, fuse and judge a domain's answers (Eqs. 1-4)."""

from raft_fast.refinement.pipeline import refine
from raft_fast.refinement.roles import Roles, build_roles

__all__ = ["Roles", "build_roles", "refine"]
