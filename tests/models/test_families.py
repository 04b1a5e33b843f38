"""Random models of many families, trained, saved and loaded again by plain transformers and peft."""

import random
import tomllib
from pathlib import Path
from threading import Event

import pytest
import torch
from tiny import make_rows, make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from raft_fast.distillation import Adapter, Teacher, train
from raft_fast.distillation.checkpoint import checkpoints
from raft_fast.distillation.student import make_student
from raft_fast.engines.generation import draw_ids
from raft_fast.engines.load import load_engine
from raft_fast.models.attention import pack_attention
from raft_fast.models.chat import Chat
from raft_fast.models.load import frozen_copy
from raft_fast.recipes import terms_of
from raft_fast.run.options import AdapterOptions, ModelOptions, TrainOptions

TOLD = tomllib.loads(Path(__file__).with_name("families.toml").read_text(encoding="utf-8"))
SMALL = TOLD["parts"]["all"]


def merged(parts):
    return {name: value for part in parts for name, value in TOLD["parts"][part].items()}


def settings_of(like=(), **own):
    """`none` is None, which TOML lacks; a list of the name of a configuration is that of parts."""
    return merged(like) | {name: merged(value) if name.endswith("_config") else None if value == "none" else
                           value for name, value in own.items()}


FAMILIES = {name: settings_of(**told) for name, told in TOLD["families"].items()}
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
def test_rows_that_join_and_leave_say_what_generate_says(name):
    """Eleven prompts, four at once; none of the model's defaults leaks in: what is drawn is p_S's own."""
    chat, stopped = Chat(make_tokenizer(), GenerationConfig(eos_token_id=[*range(2, 260, 9)])), Event()
    model, dice = build(name), random.Random(0)
    pack_attention(model)
    prompts = [[dice.randrange(4, 250) for _ in range(dice.randrange(3, 30))] for _ in range(11)]
    given = (model, chat, prompts, 10, 0.0, range(11), 4, 999)
    config = GenerationConfig(max_new_tokens=10, eos_token_id=sorted(chat.eos_ids), pad_token_id=0,
                              suppress_tokens=chat.lacking(SMALL["vocab_size"]) or None)
    model.generation_config = GenerationConfig(repetition_penalty=9.0, min_new_tokens=8, eos_token_id=2)
    drawn, model.generation_config = list(draw_ids(*given)), GenerationConfig()
    for one in drawn:
        prompt = torch.tensor([prompts[one.index]])
        want = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
        assert one.ids == want[0, prompt.shape[1] :].tolist()
    stopped.set()
    assert not list(draw_ids(*given, stopped))


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
