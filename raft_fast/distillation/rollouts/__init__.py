"""The student's own trajectories: engines that sample them, and the buffer between sampling and training."""

from typing import Any

from raft_fast.distillation.rollouts.base import Draw, RolloutEngine, Trajectory
from raft_fast.distillation.rollouts.buffer import RolloutBuffer
from raft_fast.engines import Sampling
from raft_fast.models.architecture import positions
from raft_fast.models.chat import Chat
from raft_fast.run.options import TrainOptions

__all__ = ["Draw", "RolloutBuffer", "RolloutEngine", "Trajectory", "make_engine"]


def make_engine(options: TrainOptions, chat: Chat, student: Any) -> RolloutEngine:
    """The engine that --rollout_engine names; one that is not chosen is not imported. Raises UserError if
    its package is missing; `preflight.check_rollouts` knows what runs where."""
    name = options.rollout_engine
    sampling = Sampling(options.max_completion_length, options.rollout_temperature)
    if name in ("transformers", "continuous"):
        from raft_fast.distillation.rollouts import local

        return (local.BatchedRollouts if name == "transformers" else local.ContinuousRollouts)(chat, sampling)
    from raft_fast.distillation.rollouts.vllm import VLLMRollouts, VLLMServerRollouts

    if name == "vllm":
        longest = min(options.max_length + options.max_completion_length, positions(student))
        return VLLMRollouts.start(student.name_or_path, chat, sampling, options.vllm_gpu_memory_utilization,
                                  int(longest))
    return VLLMServerRollouts.connect(options.vllm_server_base_url, chat, sampling, student.device)
