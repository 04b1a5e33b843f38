"""vLLM in this process, sharing its GPU: `--rollout_engine vllm`.

Written against docs.vllm.ai: `LLM` and `SamplingParams`, sleep mode (features/sleep_mode) and
`reload_weights` with `weights_path` (training/layerwise), for vLLM 0.22 and newer. It has not been run with
vLLM itself; tests/distillation/vllm_stand_in.py holds what is relied on.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raft_fast.distillation.rollouts.base import Draw, Trajectory
from raft_fast.distillation.rollouts.handover import suppressed, write_for_engine
from raft_fast.engines import Sampling
from raft_fast.engines.replies import ending
from raft_fast.models.chat import Chat
from raft_fast.run.errors import UserError, first_line


class VLLMRollouts:
    """Weights go over as a file, since the engine may run in a process of its own; it sleeps, weights and
    cache freed, while the student trains.

    Every request has its draw's seed; vLLM's results may still depend on what else is in a batch.
    """

    def __init__(self, llm: Any, chat: Chat, sampling: Sampling) -> None:
        self.llm, self.chat, self.sampling = llm, chat, sampling
        self.asleep = False
        self.suppressed: dict[str, Any] = {}

    @classmethod
    def start(cls, folder: str, chat: Chat, sampling: Sampling, memory: float,
              longest: int) -> "VLLMRollouts":
        """folder: the model as it is on disk. memory: share of the GPU. longest: tokens of a prompt and its
        trajectory. Raises UserError without vLLM."""
        try:
            from vllm import LLM
        except ImportError as error:
            raise UserError("--rollout_engine vllm: vLLM is not installed: pip install vllm") from error
        try:
            llm = LLM(model=folder, dtype="bfloat16", max_model_len=longest, gpu_memory_utilization=memory,
                      enable_sleep_mode=True, logprobs_mode="processed_logprobs", trust_remote_code=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"--rollout_engine vllm: {folder} cannot be loaded: {error}") from error
        return cls(llm, chat, sampling)

    def sync(self, student: Any) -> None:
        self.suppressed = suppressed(student, self.chat)
        with tempfile.TemporaryDirectory(prefix="raft-fast-weights-") as folder:
            write_for_engine(student, Path(folder))
            with _told("the student's weights could not be handed over"):
                self._reload(folder)

    def _reload(self, folder: str) -> None:
        if self.asleep:
            self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        if self.asleep:
            self.llm.wake_up(tags=["kv_cache"])
        self.llm.reset_prefix_cache()  # of the weights before
        self.asleep = False

    def sample(self, draws: Sequence[Draw], logprobs: bool = False) -> list[Trajectory]:
        from vllm import SamplingParams

        wanted = [SamplingParams(temperature=self.sampling.temperature, seed=draw.seed, logprobs=0,
                                 max_tokens=self.sampling.max_new_tokens, detokenize=False,
                                 stop_token_ids=sorted(self.chat.eos_ids), **self.suppressed)
                  for draw in draws]
        with _told("no trajectories could be had"):
            answers = self.llm.generate([{"prompt_token_ids": draw.prompt} for draw in draws], wanted,
                                        use_tqdm=False) if draws else []
            self.llm.sleep(level=2)
            self.asleep = True
            return [_trajectory(answer.outputs[0]) for answer in answers]

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: dict[str, Any]) -> None:
        pass


@contextmanager
def _told(trouble: str) -> Iterator[None]:
    """vLLM's own errors in one line; its engine may be a process of its own, whose traceback is above."""
    try:
        yield
    except Exception as error:  # vLLM raises its engine's kinds, torch's and NCCL's
        raise UserError(f"--rollout_engine vllm: {trouble} ({first_line(error)}): run the same command "
                        "again, which goes on from the last checkpoint; where memory is short, with a lower "
                        "--vllm_gpu_memory_utilization") from error


def _trajectory(drawn: Any) -> Trajectory:
    """A vLLM CompletionOutput; of each token the log-probability of the one that was drawn."""
    if ending(reason := getattr(drawn, "finish_reason", None)) not in ("stop", "length"):
        raise RuntimeError(f"a trajectory ended with finish_reason {reason!r}")
    ids = list(drawn.token_ids)
    return Trajectory(ids, [at[token].logprob for token, at in zip(ids, drawn.logprobs, strict=True)])
