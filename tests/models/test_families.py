"""Random models of many families, trained, saved and loaded again by plain transformers and peft."""

import pytest
import torch
from tiny import make_rows, make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from raft_fast.distillation import Adapter, Teacher, train
from raft_fast.distillation.checkpoint import checkpoints
from raft_fast.distillation.student import make_student
from raft_fast.engines.load import load_engine
from raft_fast.models.load import frozen_copy
from raft_fast.recipes import terms_of
from raft_fast.run.options import AdapterOptions, ModelOptions, TrainOptions

SMALL = {"vocab_size": 264, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1,
          "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
          "num_key_value_heads": 4}
WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
          "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}
STATE = {"intermediate_size": 64}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}
FAMILIES = {
    "llama": {}, "qwen2": {"tie_word_embeddings": True}, "qwen3": {}, "mistral": {"sliding_window": 8},
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 8},  # capped scores and logits, a tied head
    "gemma3_text": WINDOWS, "phi3": {"sliding_window": None}, "olmo2": {}, "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 2.0}, "cohere": {"logit_scale": 0.5},
    "mamba": STATE, "falcon_mamba": STATE, "mamba2": {"num_heads": 8, "expand": 2, "n_groups": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]}, "starcoder2": {"sliding_window": None},
    "bloom": {"n_layer": 2, "n_head": 4}, "doge": {},  # without positions; with a mask that learns
    "gemma3": {"text_config": {**SMALL, **WINDOWS}, "vision_config": VISION},
    "mixtral": LOCAL, "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**EXPERTS, "mlp_only_layers": [1]}, "olmoe": EXPERTS, "granitemoe": LOCAL, "phimoe": LOCAL,
    "deepseek_v3": {**ROUTED, **LATENT}, "glm4_moe": ROUTED, "gpt_oss": {**LOCAL, **WINDOWS},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16},
    "jamba": {"num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "qwen3_next": {**EXPERTS, **LINEAR, "shared_expert_intermediate_size": 16}}
HYBRID = {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8}
TRAIN = TrainOptions(per_device_train_batch_size=3, num_train_epochs=1, teacher_top_k=16, learning_rate=1e-2,
                     max_completion_length=8)
LORA = AdapterOptions(use_peft=True, lora_r=4)
IDS = torch.arange(4, 40)[None]


def build(name: str, **settings: object):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(name, **{**SMALL, **FAMILIES.get(name, {}), **settings})).eval()


def plain(folder):
    """By transformers alone, which finds every weight, and none that it does not know."""
    model, found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_frozen_copy_is_what_is_loaded_in_its_precision(name, tmp_path):
    """Rotary frequencies, which transformers does not round, included."""
    build(name).save_pretrained(tmp_path)
    want = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    copied = frozen_copy(plain(tmp_path), torch.bfloat16)
    for kind in ("named_parameters", "named_buffers"):
        for (key, one), (_, other) in zip(*(getattr(m, kind)() for m in (copied, want)), strict=True):
            assert (one.dtype, one.tolist()) == (other.dtype, other.tolist()), key


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(IDS).logits


def is_close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found - wanted).abs().max() <= 1e-4 * wanted.abs().max())


@pytest.mark.parametrize("adapter", [AdapterOptions(), LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_saved_model_is_the_trained_one(name, adapter, tmp_path):
    from peft import PeftModel

    base, run_dir = tmp_path / "base", tmp_path / "run"
    run_dir.mkdir()
    build(name).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    options = ModelOptions(model=str(base), device="cpu")
    original = load_engine("self", options)
    before, chat = logits(original.model), original.chat
    student = make_student(original.model, options, adapter, 0)
    teacher = Teacher(original.model, chat, 16, 1.5, teaching=student.teaching(original.model))
    train(student.model, teacher, chat, make_rows(6), terms_of("raft", TRAIN), TRAIN, 0, run_dir,
          weights=student.weights)
    trained = logits(student.model)
    assert not is_close(trained, before)

    measured = student.finish(run_dir, chat)
    assert is_close(logits(measured), trained)
    assert is_close(logits(plain(run_dir / "model")), trained)
    assert torch.equal(logits(original.model), before)
    if adapter.use_peft:
        beside = PeftModel.from_pretrained(plain(base), run_dir / "adapter")
        assert is_close(logits(beside), trained)
    else:
        assert is_close(logits(plain(checkpoints(run_dir / "checkpoints")[-1] / "model")), trained)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_an_adapter_comes_back_as_it_was_without_warnings_of_peft(name, tmp_path):
    adapter, other = (Adapter(build(name), LORA) for _ in range(2))
    for value in adapter.model.parameters():
        if value.requires_grad:
            value.data.normal_(std=0.1)
    adapter.save(tmp_path)
    other.put(other.read(tmp_path))
    assert torch.equal(logits(other.model), logits(adapter.model))


def test_experts_may_be_named_as_layers():
    """As one names them for a dense model: peft knows them as parameters."""
    named = AdapterOptions(use_peft=True, lora_target_modules="q_proj,gate_proj,up_proj,down_proj")
    adapted = {getattr(layer, "parameter_name", name.split(".")[-1])
               for name, layer in Adapter(build("qwen3_moe"), named).model.named_modules()
               if hasattr(layer, "lora_A")}
    assert adapted == {"q_proj", "gate_up_proj", "down_proj"}


@pytest.mark.parametrize("name", ["mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h", "jamba"])
def test_every_layer_with_an_adapter_learns(name):
    """State spaces use the weights of some layers without a call of the layer, and hence of its adapter."""
    adapter = Adapter(build(name, **(HYBRID if name == "falcon_h1" else {})), LORA)
    for key, value in adapter.model.named_parameters():
        if "lora_B" in key:
            value.data.normal_(std=0.1)
    adapter.model(IDS).logits.square().sum().backward()
    trained = [value for value in adapter.model.parameters() if value.requires_grad]
    assert trained
    assert all(value.grad is not None and value.grad.any() for value in trained)
