"""vLLM in this process, sharing its GPU (`--rollout_engine vllm`), or as a server on GPUs of its own.

The first is written against docs.vllm.ai (`LLM`, `SamplingParams`, sleep mode, `reload_weights` with
`weights_path`) for vLLM 0.22 and newer. The server is asked through TRL's VLLMClient, which follows vLLM's
versions (TRL 1.16: vLLM 0.22 to 0.31) and sends weights by NCCL. Neither has been run with vLLM itself;
tests/distillation/vllm_stand_in.py holds what is relied on.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.core_model_loading import revert_weight_conversion

from raft_fast.distillation.lora import merged_weights, plain_name
from raft_fast.distillation.rollouts.base import Draw, Trajectory
from raft_fast.distillation.weights import WEIGHTS_FILE
from raft_fast.engines import Sampling
from raft_fast.engines.replies import ending
from raft_fast.models.chat import Chat
from raft_fast.run.errors import UserError, first_line
from raft_fast.run.processes import Processes

PATIENCE = 240.0  # seconds for a server to be up
ATTEMPTS = 3  # of a draw
IN_FLIGHT = 64  # requests; the client keeps as many connections
LAYER = re.compile(r".*?\.\d+\.")


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


class VLLMServerRollouts:
    """Every process asks the server for its own draws; the first one hands over the weights.

    `client` is TRL's VLLMClient. A request is one draw, with its seed.
    """

    def __init__(self, client: Any, chat: Chat, sampling: Sampling, url: str) -> None:
        self.client, self.chat, self.sampling, self.url = client, chat, sampling, url
        self.announced: list[tuple[str, str, list[int]]] = []
        self.suppressed: dict[str, Any] = {}

    @classmethod
    def connect(cls, url: str, chat: Chat, sampling: Sampling, device: Any) -> "VLLMServerRollouts":
        """Raises UserError without TRL or vLLM, and where the server cannot be reached or take weights."""
        try:
            from trl.generation.vllm_client import VLLMClient

            client = VLLMClient(base_url=url, connection_timeout=PATIENCE)
        except ImportError as error:
            raise UserError("--rollout_engine vllm_server: TRL and vLLM are needed: pip install 'trl[vllm]' "
                            f"({error})") from error
        except Exception as error:  # TRL raises Exception itself for what a server answers
            raise UserError(f"--vllm_server_base_url {url}: {first_line(error)}") from error
        try:
            Processes().first(lambda: client.init_communicator(device=device))
        except Exception as error:  # it says which flag the server lacks
            raise UserError(f"--vllm_server_base_url {url}: {first_line(error)}") from error
        return cls(client, chat, sampling, url)

    def sync(self, student: Any) -> None:
        self.suppressed = suppressed(student, self.chat)
        Processes().first(lambda: self._send(student))  # the others wait: no draw from the weights before

    def sample(self, draws: Sequence[Draw], logprobs: bool = False) -> list[Trajectory]:
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            return list(pool.map(self._ask, draws))

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: dict[str, Any]) -> None:
        pass

    def _send(self, student: Any) -> None:
        """The server must know names, dtypes and shapes before the first tensor comes.

        Not tried again where it fails: half of the weights may be new, and NCCL does not begin anew.
        """
        self.announced = self.announced or [
            (name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
            for name, tensor in weights_for_engine(student)]
        try:
            self.client.update_named_params(self.announced, weights_for_engine(student))
            self.client.reset_prefix_cache()
        except Exception as error:  # requests', NCCL's, and Exception itself for what a server answers
            raise UserError(f"--vllm_server_base_url {self.url}: the student's weights could not be handed "
                            f"over ({first_line(error)}): look at the server's log, start it again, then "
                            "run the same command, which goes on from the last checkpoint") from error

    def _ask(self, draw: Draw) -> Trajectory:
        """A draw asked again is the same draw, by its seed."""
        for _ in range(ATTEMPTS):
            try:
                return self._ask_once(draw)
            except Exception as error:  # TRL raises Exception itself for what a server answers
                last = error
        raise UserError(f"--vllm_server_base_url {self.url}: a trajectory could not be had in {ATTEMPTS} "
                        f"attempts: {first_line(last)}") from last

    def _ask_once(self, draw: Draw) -> Trajectory:
        found = self.client.generate(
            [draw.prompt], temperature=self.sampling.temperature, max_tokens=self.sampling.max_new_tokens,
            logprobs=0, generation_kwargs={"seed": draw.seed, "stop_token_ids": sorted(self.chat.eos_ids),
                                           **self.suppressed})
        ids = found["completion_ids"][0]
        if len(ids) < self.sampling.max_new_tokens and not self.chat.eos_ids.intersection(ids[-1:]):
            raise RuntimeError(f"one of {len(ids)} tokens was broken off: it has no end, and "
                               f"{self.sampling.max_new_tokens} were allowed (with --max-model-len too?)")
        return Trajectory(ids, [one[0] for one in found["logprobs"][0]])


def weights_for_engine(student: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) as a checkpoint of the model has them: adapters merged, experts one by one, tied weights
    once, float32 as bf16, layer after layer."""
    once = {name for name, _ in student.named_parameters()}
    every = {name for name, _ in student.named_parameters(remove_duplicate=False)}
    tied = {plain_name(name) for name in every - once}
    kept = ((name, tensor) for name, tensor in merged_weights(student) if name not in tied)
    for _, layer in groupby(kept, lambda named: (found := LAYER.match(named[0])) and found[0]):
        tensors = {name: tensor.bfloat16() if tensor.dtype == torch.float32 else tensor
                   for name, tensor in layer}
        yield from revert_weight_conversion(student, tensors).items()


def write_for_engine(student: Any, folder: Path) -> None:
    """The same as one safetensors file in `folder`."""
    save_file({name: tensor.contiguous() for name, tensor in weights_for_engine(student)},
              folder / WEIGHTS_FILE)


def suppressed(student: Any, chat: Chat) -> dict[str, Any]:
    """Sampling parameters of vLLM for the ids that the tokenizer lacks; -100 is the API's word for never. A
    list of all others would be as long as the vocabulary, in every request."""
    lacking = chat.lacking(student.get_output_embeddings().weight.shape[0])
    return {"logit_bias": dict.fromkeys(lacking, -100.0)} if lacking else {}
