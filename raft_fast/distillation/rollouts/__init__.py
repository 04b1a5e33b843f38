"""The student's own trajectories: engines that sample them, and the buffer between sampling and training."""

import importlib.util
from typing import Any

from raft_fast.distillation.rollouts.base import Draw, RolloutEngine, Trajectory
from raft_fast.distillation.rollouts.buffer import RolloutBuffer
from raft_fast.engines import Sampling
from raft_fast.models.architecture import positions
from raft_fast.models.chat import Chat
from raft_fast.run.errors import UserError
from raft_fast.run.options import TrainOptions, check
from raft_fast.run.processes import Processes

__all__ = ["Draw", "RolloutBuffer", "RolloutEngine", "Trajectory", "check_rollouts", "make_engine"]

PACKAGES = {"vllm": ("vllm",), "vllm_server": ("trl", "vllm")}


def check_rollouts(options: TrainOptions, processes: int, on_gpu: bool) -> None:
    """Raises UserError for a --rollout_engine that is not installed, or that this device or number of
    processes does not support."""
    name = options.rollout_engine
    check(on_gpu or name == "transformers", "--rollout_engine", name,
          "transformers on a CPU: the others need a GPU")
    check(processes == 1 or name != "vllm", "--rollout_engine", name,
          f"vllm_server or continuous for {processes} processes: it shares the GPU of one")
    if missing := [one for one in PACKAGES.get(name, ()) if importlib.util.find_spec(one) is None]:
        raise UserError(f"--rollout_engine {name}: {' and '.join(missing)} not installed: "
                        f"pip install {' '.join(missing)}")


def make_engine(options: TrainOptions, chat: Chat, student: Any) -> RolloutEngine:
    """The engine that --rollout_engine names; one that is not chosen is not imported. Raises UserError if
    it cannot run here."""
    name = options.rollout_engine
    check_rollouts(options, Processes().size, student.device.type == "cuda")
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
