"""The rollout engine that --rollout_engine names."""

from raft_fast.chat import Chat
from raft_fast.distillation.rollouts.base import RolloutEngine
from raft_fast.distillation.rollouts.batched import BatchedRollouts
from raft_fast.engines import Sampling
from raft_fast.options import TrainOptions


def make_engine(options: TrainOptions, chat: Chat) -> RolloutEngine:
    return BatchedRollouts(chat, Sampling(options.max_completion_length, options.rollout_temperature))
