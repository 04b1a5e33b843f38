"""Stage 1 (Eqs. 1-4), the words of recipes such as `recipes/raft.py`: proposers `rewrite` and `fuse`; critics
`criticise`, `judge` and `likelihoods`; choices `best` and `first_passing`."""

from raft_fast.refinement.answers import refine
from raft_fast.refinement.bench import Roles, Stage1, Workbench, build_roles, index_golds
from raft_fast.refinement.candidates import Candidate, Decision, best, first_passing
from raft_fast.refinement.parts import criticise, fuse, judge, likelihoods, rewrite

__all__ = ["Candidate", "Decision", "Roles", "Stage1", "Workbench", "best", "build_roles",
           "criticise", "first_passing", "fuse", "index_golds", "judge", "likelihoods", "refine", "rewrite"]
