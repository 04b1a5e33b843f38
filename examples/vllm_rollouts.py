"""Rollouts by vLLM in the training process: `RAFTTrainer(..., rollout_engine=VLLMRollouts(...))`.

Written against docs.vllm.ai (`LLM`, `SamplingParams`, sleep mode, `reload_weights` with `weights_path`) for
vLLM 0.22 and newer; not run with vLLM itself: tests/distillation/vllm_stand_in.py has what it relies on.
One GPU: vLLM sleeps while the student trains. Another engine needs `sync` and `sample` alone.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.core_model_loading import revert_weight_conversion

from raft_fast import RolloutEngine, UserError
from raft_fast.distillation import Draw, Trajectory
from raft_fast.distillation.student import merged_weights, plain_name
from raft_fast.engines import Sampling
from raft_fast.models.chat import Chat
from raft_fast.run.errors import first_line


class VLLMRollouts(RolloutEngine):
    """vLLM in this process, on the GPU that trains: one request per draw, each with its own seed (results may
    still depend on what else is in a batch). Weights go over as a file, since its engine may run in another
    process; it sleeps, weights and cache freed, while the student trains."""

    def __init__(self, chat: Chat, sampling: Sampling, folder: str, longest: int, memory: float) -> None:
        """folder: the model on disk. longest: tokens of a prompt and its trajectory. memory: share of the
        GPU."""
        self.chat, self.sampling, self.asleep = chat, sampling, False
        with vllm_errors(f"{folder} could not be loaded"):
            from vllm import LLM

            self.llm = LLM(model=folder, dtype="bfloat16", max_model_len=longest,
                           gpu_memory_utilization=memory, enable_sleep_mode=True,
                           logprobs_mode="processed_logprobs", trust_remote_code=False)

    def sync(self, student: Any) -> None:
        lacking = self.chat.lacking(student.get_output_embeddings().weight.shape[0])
        self.never = {"logit_bias": dict.fromkeys(lacking, -100.0)} if lacking else {}  # its way to say so
        with (tempfile.TemporaryDirectory(prefix="raft-fast-weights-") as folder,
              vllm_errors("the student's weights could not be sent")):
            save_file({name: tensor.contiguous() for name, tensor in weights_for_engine(student).items()},
                      Path(folder, "model.safetensors"))
            if self.asleep:
                self.llm.wake_up(tags=["weights"])
            self.llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
            if self.asleep:
                self.llm.wake_up(tags=["kv_cache"])
            self.llm.reset_prefix_cache()
        self.asleep = False

    def sample(self, draws: Sequence[Draw], logprobs: bool = False) -> list[Trajectory]:
        with vllm_errors("sampling failed"):
            from vllm import SamplingParams

            wanted = [SamplingParams(temperature=self.sampling.temperature, logprobs=0, detokenize=False,
                                     max_tokens=self.sampling.max_new_tokens, seed=draw.seed,
                                     stop_token_ids=sorted(self.chat.eos_ids), **self.never)
                      for draw in draws]
            prompts = [{"prompt_token_ids": draw.prompt} for draw in draws]
            answers = self.llm.generate(prompts, wanted, use_tqdm=False) if draws else []
            self.llm.sleep(level=2)
            self.asleep = True
            return [self._read(answer.outputs[0]) for answer in answers]

    def _read(self, drawn: Any) -> Trajectory:
        if drawn.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"a trajectory ended with finish_reason {drawn.finish_reason!r}")
        ids = list(drawn.token_ids)
        return Trajectory(ids, [at[token].logprob for token, at in zip(ids, drawn.logprobs, strict=True)])


@contextmanager
def vllm_errors(what: str) -> Iterator[None]:
    """One line for what vLLM, its engine and torch raise."""
    try:
        yield
    except Exception as error:
        raise UserError(f"vLLM: {what} ({first_line(error)}); run the same command again to resume from the "
                        "last checkpoint") from error


def weights_for_engine(student: Any) -> dict[str, torch.Tensor]:
    """Tensors by name as in a checkpoint of the model: adapters merged, experts one by one, tied weights
    once, float32 as bf16."""
    once = {name for name, _ in student.named_parameters()}
    every = {name for name, _ in student.named_parameters(remove_duplicate=False)}
    tied = {plain_name(name) for name in every - once}
    tensors = {name: tensor.bfloat16() if tensor.dtype == torch.float32 else tensor
               for name, tensor in merged_weights(student) if name not in tied}
    return dict(revert_weight_conversion(student, tensors))
