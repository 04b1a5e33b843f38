"""Models that are not built like Llama: one that sees images too, one without positions, a quantised one."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from test_families import SMALL, build
from tiny import make_model, make_tokenizer
from transformers import Llama4ForCausalLM, Llama4TextConfig

from raft_fast.distillation import Adapter
from raft_fast.distillation.student import FullStudent, check_student, checkpoint_activations
from raft_fast.distillation.weights import check_shards
from raft_fast.models.architecture import beside_text, check_head, layers, packs, positions, rope_switches
from raft_fast.models.attention import pack_attention
from raft_fast.models.chat import View
from raft_fast.models.load import load_model
from raft_fast.models.packing import completion_hidden
from raft_fast.run.errors import UserError
from raft_fast.run.options import AdapterOptions, ModelOptions
from raft_fast.trainer import RAFTConfig, RAFTTrainer

CPU = ModelOptions(device="cpu")


@pytest.fixture
def folder(request, tmp_path):
    build(request.param).save_pretrained(tmp_path / request.param)
    make_tokenizer().save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


@pytest.mark.parametrize("folder", ["openai-gpt"], indirect=True)
def test_gradient_checkpointing_is_refused_before_stage_1_where_there_is_none(folder, tmp_path, monkeypatch):
    (rows := tmp_path / "rows.jsonl").write_text("".join(
        json.dumps({"prompt": f"What is {i}?", "completion": f"{i}"}) + "\n" for i in range(20)))
    monkeypatch.setattr("raft_fast.trainer.answer_rows", lambda *_: pytest.fail("stage 1 has begun"))
    args = RAFTConfig(output_dir=str(tmp_path / "run"), model=str(folder), data=str(rows), device="cpu",
                      gradient_checkpointing=True, teacher_top_k=16)
    with pytest.raises(UserError, match="--gradient_checkpointing: OpenAIGPTLMHeadModel does not support it"):
        RAFTTrainer(args=args).train()


@pytest.mark.parametrize("name", ["mamba", "doge"])
def test_every_weight_that_learns_alone_learns_in_a_batch(name):
    """Doge's mask has weights of its own, which packed attention never sees; at first they change nothing."""
    model = build(name)
    pack_attention(model)
    assert not packs(model)
    if name == "mamba":
        checkpoint_activations(model.train())
    completion_hidden(model, [View([5, 6], [7, 8]), View([9], [3])], 0).sum().backward()
    assert all(weight.grad is not None for weight in model.get_decoder().parameters())


@pytest.mark.parametrize("named", ["in_proj,out_proj", "out_proj"])
def test_a_layer_that_peft_cannot_adapt_is_refused_before_stage_1_where_it_is_named(named):
    with pytest.raises(UserError, match=rf"--lora_target_modules {named}: .*incompatible with Mamba"):
        check_student(build("mamba"), AdapterOptions(use_peft=True, lora_target_modules=named))


@pytest.mark.parametrize("folder", ["gemma2", "gpt_oss", "doge"], indirect=True)
def test_attention_is_what_the_model_supports_unless_it_is_named(folder):
    doge = folder.name == "doge"
    assert load_model(folder, CPU, torch.float32).config._attn_implementation == ("sdpa" if doge else "eager")
    for named in ("flash_attention_2", *([] if doge else ["sdpa"])):
        with pytest.raises(UserError, match=rf"^--attn_implementation {named} .*auto"):
            load_model(folder, ModelOptions(device="cpu", attn_implementation=named), torch.float32)


def test_what_no_text_passes_through_is_not_trained():
    """Its weights never get a gradient, which DDP waits for."""
    full = FullStudent(build("gemma3"), ModelOptions()).model.named_parameters()
    adapter = Adapter(build("gemma3"), AdapterOptions(use_peft=True), "tiny").model.named_parameters()
    frozen = [name for name, weight in full if not weight.requires_grad]
    trained = [name for name, weight in adapter if weight.requires_grad]
    assert frozen
    assert all("vision_tower" in name or "multi_modal_projector" in name for name in frozen)
    assert trained
    assert all("language_model" in name for name in trained)
    for model in (make_model(), make_model(tie_word_embeddings=True), build("bloom")):
        assert beside_text(model) == []


def test_positions_and_layers_are_found_wherever_they_stand():
    models = make_model(), build("gemma3"), build("bloom", max_position_embeddings=None)
    assert [positions(one) for one in models] == [512, 512, math.inf]
    gpt2 = build("gpt2")
    assert layers(gpt2) is gpt2.transformer.h
    assert len(layers(make_model())) == len(layers(build("gemma3"))) == 2
    ropes = {"full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 64},
             "sliding_attention": {"rope_type": "default"}}
    models[0].config.rope_parameters = ropes
    assert [rope_switches(one) for one in (models[0], gpt2)] == [[64], []]


def test_a_model_whose_decoder_cannot_be_had_is_refused_when_it_is_loaded():
    config = Llama4TextConfig(**SMALL, intermediate_size_mlp=64, num_local_experts=2)
    with pytest.raises(UserError, match="--model it: Llama4ForCausalLM has no decoder"):
        check_head(Llama4ForCausalLM(config).eval(), "it")


def test_a_model_that_cannot_be_sharded_is_refused_before_anything_is_paid_for():
    """The entry asks as soon as the model is loaded; the loop would ask after stage 1."""
    two, one = SimpleNamespace(size=2), SimpleNamespace(size=1)
    with pytest.raises(UserError, match="--parallelism fsdp2 needs a model whose sequences can be packed"):
        check_shards(build("bloom"), "fsdp2", two)
    for taken in ((build("bloom"), "ddp", two), (build("bloom"), "fsdp2", one), (make_model(), "fsdp2", two)):
        check_shards(*taken)
