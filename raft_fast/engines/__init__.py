"""Text generation behind one small protocol; engines know nothing of RAFT."""

from raft_fast.engines.base import Engine, Message, Price, Reply, Sampling, stable_seed

__all__ = ["Engine", "Message", "Price", "Reply", "Sampling", "stable_seed"]
