"""vLLM's LLM (0.22 and newer, docs.vllm.ai) as far as the rollout engine relies on it, answering from a tiny
model.

Log-probabilities are those after temperature, token ids include the stop token, and a logit bias of -100
means never. `sleep(level=2)` discards weights and cache, `reload_weights` reads a folder of safetensors."""

from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from tiny import make_model, make_tokenizer

from raft_fast.engines.generation import draw_ids
from raft_fast.models.chat import Chat

SamplingParams = dict  # `LLM.draw` takes the fields


class LLM:
    """Asleep it refuses to work, and its weights are gone."""

    def __init__(self, model, *, dtype, max_model_len, gpu_memory_utilization, **more):
        assert more == {"enable_sleep_mode": True, "logprobs_mode": "processed_logprobs",
                        "trust_remote_code": False}
        self.settings = (model, dtype, max_model_len, gpu_memory_utilization)
        self.model = make_model(7)
        self.chat = Chat(make_tokenizer(), self.model.generation_config, "served")
        self.awake, self.done = {"weights", "kv_cache"}, []

    def sleep(self, level):
        assert level == 2
        self.model = make_model(7)
        self.awake.clear()
        self.done.append("sleep")

    def wake_up(self, tags):
        self.awake |= set(tags)

    def collective_rpc(self, method, kwargs):
        assert method == "reload_weights"
        assert "weights" in self.awake
        (file,) = Path(kwargs["weights_path"]).glob("*.safetensors")
        tensors = load_file(file)
        assert {name for name, _ in self.model.named_parameters()} <= set(tensors), "weights are missing"
        assert all(tensor.dtype == torch.bfloat16 for tensor in tensors.values())
        self.model = make_model(7, vocab_size=len(tensors["lm_head.weight"]))
        self.model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        self.done.append("weights")

    def reset_prefix_cache(self):
        self.done.append("cache")

    def generate(self, prompts, sampling_params, use_tqdm):
        assert self.awake == {"weights", "kv_cache"}
        return [self.draw(prompt["prompt_token_ids"], **wanted)
                for prompt, wanted in zip(prompts, sampling_params, strict=True)]

    def draw(self, prompt, temperature, max_tokens, seed, stop_token_ids, logprobs, detokenize,
             logit_bias=None):
        assert (logprobs, detokenize, set(stop_token_ids)) == (0, False, self.chat.eos_ids)
        assert set((logit_bias or {}).values()) <= {-100.0}
        self.chat.ids = frozenset(range(self.model.config.vocab_size)) - set(logit_bias or {})
        one = next(draw_ids(self.model, self.chat, [prompt], max_tokens, temperature, [seed], 1, 9999))
        told = [{token: SimpleNamespace(logprob=value)}
                for token, value in zip(one.ids, one.logprobs, strict=True)]
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(one.ids), logprobs=told,
                                                        finish_reason="stop")])
