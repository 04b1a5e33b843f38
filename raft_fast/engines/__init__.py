"""Text generation behind one small protocol; engines know nothing of RAFT."""

from raft_fast.data.texts import Message, trim
from raft_fast.engines.base import OF_ONE_REQUEST, Engine, Price, Reply, Sampling, WindDown, stable_seed

__all__ = ["OF_ONE_REQUEST", "Engine", "Message", "Price", "Reply", "Sampling", "WindDown", "stable_seed",
           "trim"]
