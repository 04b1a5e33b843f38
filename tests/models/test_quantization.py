"""A teacher of fewer bits: what is quantised, what is refused, and that it teaches."""

import importlib.util

import pytest
import torch
from tiny import make_model, make_rows

from raft_fast.distillation import Teacher
from raft_fast.engines.load import load_local
from raft_fast.models.chat import View
from raft_fast.models.load import quantization_config
from raft_fast.models.packing import completion_hidden
from raft_fast.run.errors import UserError
from raft_fast.run.options import EngineOptions, ModelOptions, TrainOptions

CPU = torch.device("cpu")


def test_four_bits_need_a_gpu_and_none_needs_nothing():
    assert quantization_config("none", CPU) is None
    with pytest.raises(UserError, match="nf4: bitsandbytes' 4 bits need a GPU; int8 works here"):
        quantization_config("nf4", CPU)


@pytest.mark.parametrize(("kind", "device", "library"), [("int8", "cpu", "torchao"),
                                                         ("nf4", "cuda", "bitsandbytes")])
def test_a_missing_library_is_named_with_its_line(monkeypatch, kind, device, library):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{library} is needed for this: pip install .*\[quantization\]"):
        quantization_config(kind, torch.device(device))


def test_four_bits_on_a_gpu_are_asked_of_bitsandbytes(monkeypatch):
    monkeypatch.setattr("raft_fast.models.load.require", lambda *_: None)
    config = quantization_config("nf4", torch.device("cuda"))
    assert (config.load_in_4bit, config.bnb_4bit_quant_type) == (True, "nf4")
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


def test_the_model_before_training_stays_as_it_is():
    with pytest.raises(UserError, match="--teacher_quantization int8: must be none where --teacher is self"):
        TrainOptions(teacher_quantization="int8")


def stored_bytes(tensor):
    """What a weight takes, quantised ones with their scales."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(stored_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.nbytes


def test_an_int8_teacher_says_nearly_the_same(chat, tmp_path):
    pytest.importorskip("torchao")
    model = make_model(1, hidden_size=64)
    model.save_pretrained(tmp_path)
    chat.tokenizer.save_pretrained(tmp_path)
    options = ModelOptions(model=str(tmp_path), device="cpu")
    engine = load_local(str(tmp_path), options, EngineOptions(), quantization="int8")
    found = engine.model
    assert engine.identity != load_local(str(tmp_path), options, EngineOptions()).identity
    assert engine.identity.endswith(" int8")
    assert type(found.lm_head.weight) is torch.nn.Parameter  # the head makes targets: untouched
    of_layer = [model.model.layers[0].mlp.up_proj.weight, found.model.layers[0].mlp.up_proj.weight]
    plain, small = map(stored_bytes, of_layer)
    assert plain / 4 <= small <= plain / 3  # and the scales
    teacher = Teacher(found, chat, 16, 1.5)
    views = [View(teacher.prompt(row), [70, 71, 72, 2]) for row in make_rows(3)]
    with torch.no_grad():
        wanted, got = (completion_hidden(one, views, chat.pad_id) for one in (model, found))
    assert 0 < (wanted - got).norm() < 0.1 * wanted.norm()
    targets = teacher.targets(views)
    assert targets.ids.shape == (12, 16)
    assert (targets.mass > 0).all()
    assert (targets.mass <= 1).all()
