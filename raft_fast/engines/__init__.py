"""Text generation behind one small protocol; engines know nothing of RAFT."""

from raft_fast.engines.base import Engine, Message, Reply, Sampling, stable_seed

__all__ = ["Engine", "Message", "Reply", "Sampling", "stable_seed"]
