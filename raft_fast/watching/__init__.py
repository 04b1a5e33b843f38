"""What listens to a run: evaluation while it trains, the best weights, trackers, samples, where time goes."""

from raft_fast.watching.live import StepsInProgress
from raft_fast.watching.memory import show_memory
from raft_fast.watching.watchers import watchers

__all__ = ["StepsInProgress", "show_memory", "watchers"]
