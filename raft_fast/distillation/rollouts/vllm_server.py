"""A `vllm serve` on GPUs of its own, weights sent by NCCL: `--rollout_engine vllm_server`.

TRL's VLLMClient speaks to the server, and follows vLLM from version to version (TRL 1.16: vLLM 0.22 to 0.31).
It has not been run with a server; tests/distillation/vllm_stand_in.py holds what is relied on.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raft_fast.distillation.rollouts.base import Draw, Trajectory
from raft_fast.distillation.rollouts.handover import suppressed, weights_for_engine
from raft_fast.engines import Sampling
from raft_fast.models.chat import Chat
from raft_fast.run.errors import UserError, first_line
from raft_fast.run.processes import Processes

PATIENCE = 240.0  # seconds for a server to be up
ATTEMPTS = 3  # of a draw
IN_FLIGHT = 64  # requests; the client keeps as many connections


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
