"""The rollout engine that --rollout_engine names; one that is not chosen is not imported."""

from typing import Any

from raft_fast.distillation.rollouts.base import RolloutEngine
from raft_fast.engines import Sampling
from raft_fast.models.architecture import positions
from raft_fast.models.chat import Chat
from raft_fast.run.options import TrainOptions, check_rollouts
from raft_fast.run.processes import Processes


def make_engine(options: TrainOptions, chat: Chat, student: Any) -> RolloutEngine:
    """Raises UserError where it cannot run here."""
    name = options.rollout_engine
    check_rollouts(Processes().size, student.device.type == "cuda", options)
    sampling = Sampling(options.max_completion_length, options.rollout_temperature)
    if name == "transformers":
        from raft_fast.distillation.rollouts.batched import BatchedRollouts

        return BatchedRollouts(chat, sampling)
    if name == "continuous":
        from raft_fast.distillation.rollouts.continuous import ContinuousRollouts

        return ContinuousRollouts(chat, sampling)
    if name == "vllm":
        from raft_fast.distillation.rollouts.vllm import VLLMRollouts

        longest = min(options.max_length + options.max_completion_length, positions(student))
        return VLLMRollouts.start(student.name_or_path, chat, sampling, options.vllm_gpu_memory_utilization,
                                  int(longest))
    from raft_fast.distillation.rollouts.vllm_server import VLLMServerRollouts

    return VLLMServerRollouts.connect(options.vllm_server_base_url, chat, sampling, student.device)
