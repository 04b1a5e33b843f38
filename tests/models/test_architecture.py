"""Models that are not built like Llama: one that sees images too, one without positions; through stage 2."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from tiny import make_model, make_rows, make_tokenizer
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    DogeConfig,
    Gemma2Config,
    Gemma3Config,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MambaConfig,
    OpenAIGPTConfig,
)

from raft_fast.distillation import Adapter, estimate
from raft_fast.distillation.memory import Estimate
from raft_fast.distillation.planning import RowLengths
from raft_fast.distillation.stage2 import train_student
from raft_fast.distillation.student import FullStudent, check_student, checkpoint_activations
from raft_fast.distillation.weights import check_shards
from raft_fast.engines.hf import HFEngine
from raft_fast.engines.load import load_engine
from raft_fast.evaluation.drift import compare_tokens
from raft_fast.models.architecture import beside_text, check_head, layers, packs, positions, rope_switches
from raft_fast.models.attention import pack_attention
from raft_fast.models.chat import View
from raft_fast.models.load import load_chat, load_model
from raft_fast.models.packing import completion_hidden
from raft_fast.recipes import terms_of
from raft_fast.run.config import GROUPS, parse
from raft_fast.run.errors import UserError
from raft_fast.run.options import (
    AdapterOptions,
    DataOptions,
    EngineOptions,
    EvaluateOptions,
    ModelOptions,
    Options,
    RefineOptions,
    ScreenOptions,
    TrainOptions,
    WatchOptions,
)
from raft_fast.run.progress import Silent
from raft_fast.trainer import RAFTConfig, RAFTTrainer

TEXT = {"vocab_size": 260, "hidden_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GEMMA3 = {**TEXT, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
          "num_key_value_heads": 2, "sliding_window": 16, "max_position_embeddings": 512,
          "layer_types": ["sliding_attention", "full_attention"]}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}
ATTENTION = {name: value for name, value in GEMMA3.items() if name not in ("sliding_window", "layer_types")}
CONFIGS = {"gemma3": Gemma3Config(text_config=GEMMA3, vision_config=VISION),
           "bloom": BloomConfig(**TEXT, n_layer=2, n_head=4),
           "gemma2": Gemma2Config(**ATTENTION, sliding_window=16),
           "gpt-oss": GptOssConfig(**ATTENTION, sliding_window=16, num_local_experts=4, num_experts_per_tok=2,
                                   rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
           "doge": DogeConfig(**ATTENTION),
           "mamba": MambaConfig(**TEXT, num_hidden_layers=2)}
TRAIN = TrainOptions(per_device_train_batch_size=3, num_train_epochs=1, teacher_top_k=16, learning_rate=1e-3,
                     max_completion_length=8, gradient_checkpointing=True)


def build(name):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


@pytest.fixture
def folder(request, tmp_path):
    build(request.param).save_pretrained(tmp_path / request.param)
    make_tokenizer().save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("folder", [name for name in CONFIGS if name != "mamba"], indirect=True)
def test_stage_2_from_the_folder_to_a_model_that_loads(folder, tmp_path, lora, monkeypatch):
    shown = []
    monkeypatch.setattr(Estimate, "show", lambda self: shown.append(self))
    model = ModelOptions(model=str(folder), device="cpu")
    options = Options(DataOptions(), model, EngineOptions(), ScreenOptions(), RefineOptions(), TRAIN,
                      AdapterOptions(use_peft=lora, lora_r=4), WatchOptions(), EvaluateOptions())
    original, run_dir = load_engine("self", model), tmp_path / "run"
    run_dir.mkdir()
    trained = train_student(make_rows(6), terms_of("raft", TRAIN), options, original, original, run_dir,
                            Silent())
    steps = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 2
    assert all(step["sft_loss"] > 0 and step["kl_loss"] >= 0 and not step["skipped"] for step in steps)
    assert shown[0].needed > 0

    again = load_model(run_dir / "model", model, torch.float32)
    chat = load_chat(run_dir / "model", again)
    views = [chat.sft_view(row.prompt, row.completion) for row in make_rows(2)]
    (same, *_), (moved, *_) = (
        compare_tokens(one, HFEngine(again, chat, "again").model, views, chat.pad_id, Silent(), "drift")
        for one in (trained.model, load_model(folder, model, torch.float32)))
    assert same.kl == pytest.approx(0, abs=1e-9)
    assert moved.kl > 1e-6


def test_a_recurrent_model_trains_whole_and_takes_no_adapter_it_cannot_have():
    with pytest.raises(UserError, match=r"--lora_target_modules in_proj,out_proj: .*incompatible with Mamba"):
        check_student(build("mamba"), AdapterOptions(use_peft=True, lora_target_modules="in_proj,out_proj"))
    model = build("mamba").train()
    checkpoint_activations(model)
    completion_hidden(model, [View([5, 6], [7, 8]), View([9], [3])], 0).sum().backward()
    assert all(weight.grad is not None for weight in model.get_decoder().parameters())


def test_every_weight_that_learns_alone_learns_in_a_batch():
    """Doge's mask has weights of its own, which packed attention never sees; at first they change nothing."""
    model = build("doge")
    pack_attention(model)
    assert not packs(model)
    completion_hidden(model, [View([5, 6], [7, 8]), View([9], [3])], 0).sum().backward()
    assert all(weight.grad is not None for weight in model.get_decoder().parameters())


@pytest.mark.parametrize("name", ["gemma2", "gpt-oss", "doge"])
def test_attention_is_what_the_model_supports_unless_it_is_named(name, tmp_path):
    build(name).save_pretrained(tmp_path)
    model = load_model(tmp_path, ModelOptions(device="cpu"), torch.float32)
    assert model.config._attn_implementation == ("sdpa" if name == "doge" else "eager")
    for named in ("flash_attention_2", *([] if name == "doge" else ["sdpa"])):
        with pytest.raises(UserError, match=rf"^--attn_implementation {named} .*auto"):
            load_model(tmp_path, ModelOptions(device="cpu", attn_implementation=named), torch.float32)


def test_gradient_checkpointing_is_refused_before_stage_1_where_there_is_none(tmp_path, monkeypatch):
    folder, rows = tmp_path / "gpt", tmp_path / "rows.jsonl"
    config = OpenAIGPTConfig(vocab_size=260, n_embd=32, n_layer=1, n_head=4, n_positions=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    rows.write_text("".join(json.dumps({"prompt": f"What is {i}?", "completion": f"{i}"}) + "\n"
                            for i in range(20)))
    argv = ["--model", str(folder), "--data", str(rows), "--output_dir", str(tmp_path / "run"),
            "--device", "cpu", "--gradient_checkpointing", "true", "--teacher_top_k", "16"]
    monkeypatch.setattr("raft_fast.trainer.answer_rows", lambda *_: pytest.fail("stage 1 has begun"))
    trainer = RAFTTrainer(args=RAFTConfig.from_options(Options(*parse("train", "", GROUPS, argv)[1]), "raft"))
    with pytest.raises(UserError, match="--gradient_checkpointing: OpenAIGPTLMHeadModel does not support it"):
        trainer.train()


def test_what_no_text_passes_through_is_not_trained():
    """Its weights never get a gradient, which DDP waits for."""
    student = FullStudent(build("gemma3"))
    frozen = [name for name, weight in student.model.named_parameters() if not weight.requires_grad]
    assert frozen
    assert all("vision_tower" in name or "multi_modal_projector" in name for name in frozen)
    adapter = Adapter(build("gemma3"), AdapterOptions(use_peft=True), "tiny")
    trained = [name for name, weight in adapter.model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("language_model" in name for name in trained)


def test_all_of_a_model_for_text_is_for_text():
    assert beside_text(make_model()) == beside_text(make_model(tie_word_embeddings=True)) == []
    assert beside_text(build("bloom")) == []


def test_the_longest_position_is_read_wherever_it_stands():
    assert [positions(one) for one in (make_model(), build("gemma3"), build("bloom"))] == [512, 512, math.inf]


def test_where_rotary_frequencies_change_is_read_of_every_kind_of_layer():
    ropes = {"full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 64},
             "sliding_attention": {"rope_type": "default"}}
    configs = [make_model().config, SimpleNamespace(rope_parameters=ropes), SimpleNamespace()]
    assert [rope_switches(SimpleNamespace(config=SimpleNamespace(get_text_config=lambda one=one: one)))
            for one in configs] == [[], [64], []]


def test_layers_are_found_by_any_name():
    gpt2 = GPT2LMHeadModel(GPT2Config(**TEXT, n_layer=3, n_head=4, n_positions=64))
    assert layers(gpt2) is gpt2.transformer.h
    assert len(layers(make_model())) == 2
    assert len(layers(build("gemma3"))) == 2


def test_memory_is_estimated_where_there_is_no_attention():
    mamba = AutoModelForCausalLM.from_config(MambaConfig(**TEXT, num_hidden_layers=2)).eval()
    assert estimate(mamba, mamba, {"r": RowLengths(30, 10, 40)}, TRAIN).needed > 0


def test_a_model_whose_decoder_cannot_be_had_is_refused_when_it_is_loaded():
    config = Llama4TextConfig(**TEXT, intermediate_size=64, intermediate_size_mlp=64, num_hidden_layers=2,
                              num_attention_heads=4, num_key_value_heads=2, num_local_experts=2)
    with pytest.raises(UserError, match="--model it: Llama4ForCausalLM has no decoder"):
        check_head(Llama4ForCausalLM(config).eval(), "it")


def test_a_model_that_cannot_be_sharded_is_refused_before_anything_is_paid_for():
    """The entry asks as soon as the model is loaded; the loop would ask after stage 1."""
    two, one = SimpleNamespace(size=2), SimpleNamespace(size=1)
    with pytest.raises(UserError, match="--parallelism fsdp2 needs a model whose sequences can be packed"):
        check_shards(build("bloom"), "fsdp2", two)
    check_shards(build("bloom"), "ddp", two)
    check_shards(build("bloom"), "fsdp2", one)
    check_shards(make_model(), "fsdp2", two)
