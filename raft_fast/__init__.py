"""raft-fast: RAFT fine-tuning (arXiv 2606.00147) in two stages.

`RAFTTrainer` refines the answers of a domain data set, trains on them with answer-conditioned on-policy
distillation, and measures what was learnt and what was kept. `python -m raft_fast.train` does the same on the
command line; raft_fast.refine and raft_fast.evaluate are its first and last part alone."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raft_fast.distillation import Callback as Callback
    from raft_fast.distillation import RolloutEngine as RolloutEngine
    from raft_fast.run.errors import UserError as UserError
    from raft_fast.trainer import RAFTConfig as RAFTConfig
    from raft_fast.trainer import RAFTTrainer as RAFTTrainer

__version__ = "0.1.0"
FROM = {"Callback": "raft_fast.distillation", "RolloutEngine": "raft_fast.distillation",
        "RAFTConfig": "raft_fast.trainer", "RAFTTrainer": "raft_fast.trainer",
        "UserError": "raft_fast.run.errors"}
__all__ = [*FROM, "evaluate", "refine"]


def __getattr__(name: str) -> Any:
    """Imports when asked, so that `import raft_fast` stays light."""
    if name in FROM:
        return getattr(importlib.import_module(FROM[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
