"""vLLM's LLM (0.22 and newer, docs.vllm.ai) and TRL 1.16's VLLMClient (its docstrings), as far as the rollout
engines rely on them, answering from a tiny model.

Log-probabilities are those after temperature, token ids include the stop token, and a logit bias of -100
means never. `sleep(level=2)` discards weights and cache, `reload_weights` reads a folder of safetensors by
the checkpoint's names.
"""

from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from tiny import make_model, make_tokenizer

from raft_fast.engines.generation import sample_ids
from raft_fast.models.chat import Chat

SamplingParams = dict  # `Served.draw` takes the fields


class Served:
    """A model of the served architecture that samples from whatever weights it was last given."""

    def __init__(self):
        self.model = make_model(7)
        self.chat = Chat(make_tokenizer(), self.model.generation_config, "served")

    def put(self, tensors):
        assert {name for name, _ in self.model.named_parameters()} <= set(tensors), "weights are missing"
        assert all(tensor.dtype == torch.bfloat16 for tensor in tensors.values())
        self.model = make_model(7, vocab_size=len(tensors["lm_head.weight"]))
        self.model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})

    def draw(self, prompt, temperature, max_tokens, seed, stop_token_ids, logprobs, logit_bias=None,
             detokenize=False):
        assert (logprobs, detokenize, set(stop_token_ids)) == (0, False, self.chat.eos_ids)
        assert set((logit_bias or {}).values()) <= {-100.0}
        self.chat.ids = frozenset(range(self.model.config.vocab_size)) - set(logit_bias or {})
        return sample_ids(self.model, self.chat, [prompt], max_tokens, temperature, [seed])[0]


class LLM(Served):
    """vLLM's. Asleep it refuses to work, and its weights are gone."""

    def __init__(self, model, *, dtype, max_model_len, gpu_memory_utilization, **more):
        assert more == {"enable_sleep_mode": True, "logprobs_mode": "processed_logprobs",
                        "trust_remote_code": False}
        super().__init__()
        self.settings = (model, dtype, max_model_len, gpu_memory_utilization)
        self.awake, self.done = {"weights", "kv_cache"}, []

    def sleep(self, level):
        assert level == 2
        super().__init__()
        self.awake.clear()
        self.done.append("sleep")

    def wake_up(self, tags):
        self.awake |= set(tags)

    def collective_rpc(self, method, kwargs):
        assert method == "reload_weights"
        assert "weights" in self.awake
        (file,) = Path(kwargs["weights_path"]).glob("*.safetensors")
        self.put(load_file(file))
        self.done.append("weights")

    def reset_prefix_cache(self):
        self.done.append("cache")

    def generate(self, prompts, sampling_params, use_tqdm):
        assert self.awake == {"weights", "kv_cache"}
        return [self._answer(*self.draw(prompt["prompt_token_ids"], **wanted))
                for prompt, wanted in zip(prompts, sampling_params, strict=True)]

    def _answer(self, ids, values):
        told = [{token: SimpleNamespace(logprob=value)} for token, value in zip(ids, values, strict=True)]
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(ids), logprobs=told,
                                                        finish_reason="stop")])


class VLLMClient(Served):
    """TRL's. With `loses_weights` it acknowledges them and keeps what it had."""

    loses_weights = False

    def __init__(self, base_url, connection_timeout):
        if "nobody" in base_url:
            raise OSError(f"The vLLM server can't be reached at {base_url}")
        super().__init__()
        self.resets = 0

    def init_communicator(self, device):
        self.device = device

    def update_named_params(self, metadata, named_params):
        came = dict(named_params)
        assert metadata == [(name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
                            for name, tensor in came.items()]
        if not self.loses_weights:
            self.put(came)

    def reset_prefix_cache(self):
        self.resets += 1

    def generate(self, prompts, temperature, max_tokens, logprobs, generation_kwargs):
        ids, values = self.draw(*prompts, temperature, max_tokens, logprobs=logprobs, **generation_kwargs)
        return {"completion_ids": [ids], "logprobs": [[[value] for value in values]]}
