"""The engines of --rollout_engine, both in this process: transformers and vLLM.

vLLM's is written against docs.vllm.ai (`LLM`, `SamplingParams`, sleep mode, `reload_weights` with
`weights_path`) for vLLM 0.22 and newer. It has not been run with vLLM itself;
tests/distillation/vllm_stand_in.py has what it relies on.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.core_model_loading import revert_weight_conversion

from raft_fast.distillation.lora import merged_weights, plain_name
from raft_fast.distillation.rollouts import Draw, RolloutEngine, Trajectory
from raft_fast.distillation.weights import WEIGHTS_FILE
from raft_fast.engines import Sampling
from raft_fast.engines.generation import generate_ids, sample_ids
from raft_fast.models.architecture import positions
from raft_fast.models.chat import Chat
from raft_fast.run.errors import UserError, first_line
from raft_fast.run.options import TrainOptions
from raft_fast.run.progress import console

ROLLOUT_ROWS = 64  # with few rows the matrix units idle
ROLLOUT_TOKENS = 65536  # upper bound of the cache of keys and values, padding and completions included
LESS_MEMORY = ("use --gradient_checkpointing true or a smaller --max_tokens_per_micro_batch; or, in a new "
               "--output_dir, --use_peft true, a shorter --max_length or --max_completion_length")


def make_engine(options: TrainOptions, chat: Chat, student: Any) -> RolloutEngine:
    """The engine that --rollout_engine names. Raises UserError if its package is missing;
    `stage2.check_rollouts` checks which of them the device supports."""
    sampling = Sampling(options.max_completion_length, options.rollout_temperature)
    if options.rollout_engine == "transformers":
        return BatchedRollouts(chat, sampling)
    longest = int(min(options.max_length + options.max_completion_length, positions(student)))
    return VLLMRollouts(chat, sampling, student.name_or_path, longest, options.vllm_gpu_memory_utilization)


class BatchedRollouts(RolloutEngine):
    """Samples from the student itself. A draw's noise depends on its seed alone; its probabilities are the
    student's, rounded according to the padding of its batch. (Where rotary frequencies depend on the longest
    sequence of a pass, as in `generate`, they depend on the batch.)

    At most `rows` rows and `tokens` tokens are sampled at once; out of memory, `rows` is halved for good.
    """

    def __init__(self, chat: Chat, sampling: Sampling) -> None:
        self.chat, self.sampling, self.rows, self.tokens = chat, sampling, ROLLOUT_ROWS, ROLLOUT_TOKENS
        self.student: Any = None

    def sync(self, student: Any) -> None:
        self.student = student

    def sample(self, draws: Sequence[Draw], logprobs: bool = False) -> list[Trajectory]:
        waiting = sorted(range(len(draws)), key=lambda index: -len(draws[index].prompt))  # little padding
        drawn: dict[int, Trajectory] = {}
        while waiting:
            longest = len(draws[waiting[0]].prompt) + self.sampling.max_new_tokens
            chosen = waiting[: max(1, min(self.rows, self.tokens // longest))]
            try:
                found = self._generate([draws[index] for index in chosen], logprobs)
                drawn.update(zip(chosen, found, strict=True))
                waiting, failed = waiting[len(chosen) :], None
            except torch.OutOfMemoryError as error:
                failed = first_line(error)
            if failed:  # outside of the handler: the error holds on to the cache of keys and values
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                if len(chosen) == 1:
                    raise UserError(f"out of memory while sampling one trajectory ({failed}): {LESS_MEMORY}")
                self.rows = (len(chosen) + 1) // 2
                console.print(f"out of memory while sampling {len(chosen)} trajectories: {self.rows} at once "
                              "from here on", markup=False, soft_wrap=True)
        self.student = None  # frees the copy of a sharded one while the student trains
        return [drawn[index] for index in range(len(draws))]

    def _generate(self, draws: Sequence[Draw], logprobs: bool) -> list[Trajectory]:
        asked = (self.student, self.chat, [draw.prompt for draw in draws], self.sampling.max_new_tokens,
                 self.sampling.temperature, [draw.seed for draw in draws])
        if not logprobs:  # a tenth faster
            return [Trajectory(ids) for ids in generate_ids(*asked)]
        return [Trajectory(ids, values) for ids, values in sample_ids(*asked)]


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
                      Path(folder, WEIGHTS_FILE))
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
        raise UserError(f"--rollout_engine vllm: {what} ({first_line(error)}); run the same command again to "
                        "go on from the last checkpoint") from error


def weights_for_engine(student: Any) -> dict[str, torch.Tensor]:
    """Tensors by name as in a checkpoint of the model: adapters merged, experts one by one, tied weights
    once, float32 as bf16."""
    once = {name for name, _ in student.named_parameters()}
    every = {name for name, _ in student.named_parameters(remove_duplicate=False)}
    tied = {plain_name(name) for name in every - once}
    tensors = {name: tensor.bfloat16() if tensor.dtype == torch.float32 else tensor
               for name, tensor in merged_weights(student) if name not in tied}
    return dict(revert_weight_conversion(student, tensors))

