"""What the vLLM rollout engines rely on, as stand-ins that answer from a real small model.

vLLM (0.22 and newer), from docs.vllm.ai:
- `LLM(model=..., dtype, max_model_len, gpu_memory_utilization, enable_sleep_mode, logprobs_mode,
  trust_remote_code)`; `logprobs_mode="processed_logprobs"` gives log-probabilities after temperature.
- `generate(prompts, sampling_params, use_tqdm)`: prompts `{"prompt_token_ids": [...]}`, a SamplingParams
  each; answers in their order, `.outputs[0].token_ids` with the stop token, `.logprobs` a dict a token from
  id to an object with `.logprob`, the drawn one among them where `logprobs=0`.
- `logit_bias`: a dict from id to what is added to its logit, -100 for never; also in a request to a server.
- `sleep(level=2)` discards weights and cache; `wake_up(tags=["weights"])`, then weights, then
  `wake_up(tags=["kv_cache"])`. `collective_rpc("reload_weights", kwargs={"weights_path": folder})` loads a
  folder of safetensors by the checkpoint's names. `reset_prefix_cache()`.

TRL 1.16's VLLMClient, from its docstrings: `VLLMClient(base_url, connection_timeout)`,
`init_communicator(device)`, `update_named_params(metadata, named_params)` (the tensors in the order that the
metadata announces), `reset_prefix_cache()`, `generate(prompts, temperature, max_tokens, logprobs,
generation_kwargs)` -> {"completion_ids": [[...]], "logprobs": [[[drawn], ...]]}.
"""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from tiny import make_model, make_tokenizer

from raft_fast.engines.generation import sample_ids
from raft_fast.models.chat import Chat


class Served:
    """A model of the served architecture that samples from whatever weights it was last given."""

    def __init__(self):
        self.model = make_model(7)
        self.chat = Chat(make_tokenizer(), self.model.generation_config, "served")

    def put(self, tensors):
        own = {name for name, _ in self.model.named_parameters()}
        assert own <= set(tensors), "weights are missing"
        assert all(tensor.dtype == torch.bfloat16 for tensor in tensors.values())
        self.model = make_model(7, vocab_size=len(tensors["lm_head.weight"]))
        self.model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})

    def draw(self, prompt, temperature, max_tokens, seed, stop_token_ids, logit_bias=None):
        assert set(stop_token_ids) == self.chat.eos_ids
        assert set((logit_bias or {}).values()) <= {-100.0}
        self.chat.ids = frozenset(range(self.model.config.vocab_size)) - set(logit_bias or {})
        return sample_ids(self.model, self.chat, [prompt], max_tokens, temperature, [seed])[0]


@dataclass
class SamplingParams:
    temperature: float = 1.0
    seed: int | None = None
    logprobs: int | None = None
    max_tokens: int | None = 16
    detokenize: bool = True
    stop_token_ids: list[int] = field(default_factory=list)
    logit_bias: dict[int, float] | None = None


class LLM:
    """As vLLM's; asleep it refuses to work, and its weights are gone."""

    def __init__(self, model, *, dtype, max_model_len, gpu_memory_utilization, enable_sleep_mode,
                 logprobs_mode, trust_remote_code):
        assert not trust_remote_code
        assert enable_sleep_mode
        assert logprobs_mode == "processed_logprobs"
        self.settings = (model, dtype, max_model_len, gpu_memory_utilization)
        self.served, self.awake, self.done = Served(), {"weights", "kv_cache"}, []

    def sleep(self, level):
        assert level == 2
        self.awake, self.served = set(), Served()
        self.done.append("sleep")

    def wake_up(self, tags):
        self.awake |= set(tags)

    def collective_rpc(self, method, kwargs):
        assert method == "reload_weights"
        assert "weights" in self.awake
        (file,) = Path(kwargs["weights_path"]).glob("*.safetensors")
        self.served.put(load_file(file))
        self.done.append("weights")

    def reset_prefix_cache(self):
        self.done.append("cache")

    def generate(self, prompts, sampling_params, use_tqdm=True):
        assert self.awake == {"weights", "kv_cache"}
        return [self._answer(prompt["prompt_token_ids"], wanted)
                for prompt, wanted in zip(prompts, sampling_params, strict=True)]

    def _answer(self, prompt, wanted):
        assert wanted.logprobs == 0
        ids, logprobs = self.served.draw(prompt, wanted.temperature, wanted.max_tokens, wanted.seed,
                                         wanted.stop_token_ids, wanted.logit_bias)
        told = [{token: SimpleNamespace(logprob=value, rank=1)}
                for token, value in zip(ids, logprobs, strict=True)]
        return SimpleNamespace(outputs=[SimpleNamespace(
            token_ids=tuple(ids), logprobs=told, finish_reason="stop")])


class VLLMClient:
    """As TRL's; with `loses_weights` it acknowledges them and keeps what it had."""

    loses_weights = False

    def __init__(self, base_url, connection_timeout=0.0):
        if "nobody" in base_url:
            raise OSError(f"The vLLM server can't be reached at {base_url}")
        self.served, self.device, self.resets = Served(), None, 0

    def init_communicator(self, device):
        self.device = device

    def update_named_params(self, metadata, named_params):
        came = list(named_params)
        assert metadata == [(name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
                            for name, tensor in came]
        if not self.loses_weights:
            self.served.put(dict(came))

    def reset_prefix_cache(self):
        self.resets += 1

    def generate(self, prompts, temperature, max_tokens, logprobs, generation_kwargs):
        assert logprobs == 0
        (prompt,) = prompts
        ids, values = self.served.draw(prompt, temperature, max_tokens, **generation_kwargs)
        return {"completion_ids": [ids], "logprobs": [[[value] for value in values]]}
