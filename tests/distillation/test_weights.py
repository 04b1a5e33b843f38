"""What checkpoints hold of a model: every weight once, under the model's own names, read back bit for bit."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_model
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen2MoeConfig

from raft_fast.distillation import FullWeights

SMALL = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2}
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}


def family(name, seed):
    """Experts, whose names in transformers' own folders are others than in memory, and tied weights."""
    torch.manual_seed(seed)
    if name in ("tied", "untied"):
        return make_model(seed, tie_word_embeddings=name == "tied")
    if name == "mixtral":
        return AutoModelForCausalLM.from_config(MixtralConfig(**SMALL, num_local_experts=4))
    return AutoModelForCausalLM.from_config(Qwen2MoeConfig(**SMALL, **EXPERTS))


@pytest.mark.parametrize("name", ["tied", "untied", "mixtral", "qwen2-moe"])
def test_weights_come_back_as_they_were(tmp_path, name):
    saved, other = family(name, 0), family(name, 1)
    FullWeights(saved).save(tmp_path / "model")
    weights = FullWeights(other)
    weights.put(weights.read(tmp_path / "model"))
    for want, got in zip(saved.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(got, want)
    stored = load_file(tmp_path / "model/model.safetensors")
    assert ("lm_head.weight" in stored) is (name != "tied")
    assert (other.lm_head.weight is other.get_input_embeddings().weight) is (name == "tied")


def test_weights_of_another_model_are_refused(tmp_path):
    FullWeights(family("untied", 0)).save(tmp_path / "model")
    with pytest.raises(ValueError, match="its weights are not the model's"):
        FullWeights(family("mixtral", 0)).read(tmp_path / "model")
