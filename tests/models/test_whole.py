"""A folder whose weights are not what its configuration asks for is refused in one line that names them."""

import json

import pytest
import torch
from home import make_home
from safetensors.torch import load_file, save_file
from test_families import build
from tiny import make_model, make_tokenizer

from raft_fast.distillation.student import make_student
from raft_fast.engines.load import load_engine
from raft_fast.models.load import Encoder
from raft_fast.models.whole import check_written
from raft_fast.run.errors import UserError
from raft_fast.run.options import AdapterOptions, ModelOptions

NORM, UP, Q = "model.norm.weight", "model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj"
W2 = "model.layers.1.block_sparse_moe.experts.2.w2.weight"
WEIGHTS = "model.safetensors"


def load(folder, option="--model"):
    spec, options = ("self", str(folder)) if option == "--model" else (str(folder), "other")
    return load_engine(spec, ModelOptions(model=options, device="cpu"), option=option).model


def edit(folder, change):
    """Have `change` change the tensors in the folder's one file."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS,
              metadata={"format": "pt"})


def another_layer(tensors):
    tensors.update({name.replace("layers.1.", "layers.2."): tensor.clone()
                    for name, tensor in tensors.items() if "layers.1." in name})


@pytest.fixture
def mixtral_folder(tmp_path):
    build("mixtral").save_pretrained(tmp_path / "mixtral")
    make_tokenizer().save_pretrained(tmp_path / "mixtral")
    return tmp_path / "mixtral"


NO_PLACE = "config.json has no place for weights: "


@pytest.mark.parametrize(("change", "said"), [
    (lambda t: t.pop(UP), rf"weights are missing: {UP} \(1 in all\)"),
    (lambda t: t.pop("lm_head.weight"), "weights are missing: lm_head.weight"),
    (lambda t: t.update({NORM: torch.ones(31)}), rf"weights have the wrong shape: {NORM} \[31\] for \[32\]"),
    (lambda t: t[UP].view(-1)[7].fill_(torch.nan), f"weights hold NaN or Inf: {UP}"),
    (lambda t: t.update({NORM: torch.full([32], -torch.inf, dtype=torch.bfloat16)}), "hold NaN or Inf"),
    (another_layer, rf"{NO_PLACE}model.layers.2.*, \.\.\. \(9 in all\)"),
    (lambda t: t.update({f"{Q}.base_layer.weight": t.pop(f"{Q}.weight")}), f"{NO_PLACE}{Q}.base_layer"),
    (lambda t: t.update({f"{Q}.lora_A.default.weight": torch.ones(4, 32)}), f"{NO_PLACE}{Q}.lora_A"),
    (lambda t: t.update({f"{Q}.weight_scale_inv": torch.ones(1)}), f"{NO_PLACE}{Q}.weight_scale_inv"),
    (lambda t: t.update({UP: (t[UP] * 127).to(torch.int8)}), f"weights are whole numbers, .*: {UP}"),
    (lambda t: t.update({f"{Q}.bias": torch.ones(32)}), f"{NO_PLACE}{Q}.bias"),
    (lambda t: t.update({"lm_head.bias": torch.ones(260)}), f"{NO_PLACE}lm_head.bias"),
    (lambda t: t.update({"layers.1.self_attn.q_norm.weight": t.pop(NORM) * 2,
                         **{name.removeprefix("model."): t.pop(name) for name in list(t)},
                         "norm.weight": torch.ones(32)}), f"{NO_PLACE}layers.1.self_attn.q_norm.weight"),
    (lambda t: t.update({"model.layers.0.post_feedforward_layernorm.weight": torch.ones(32)}), "model_type"),
], ids=range(14))
def test_weights_that_are_not_the_configurations_are_named(model_folder, change, said):
    edit(model_folder, change)
    with pytest.raises(UserError, match=f"--model {model_folder}: .*{said}"):
        load(model_folder)


@pytest.mark.parametrize(("change", "said"), [
    (lambda t: t.pop(W2), r"experts.down_proj \[3, 32, 48\] for \[4, 32, 48\]"),
    (lambda t: t.pop(W2.replace("w2", "w1")), r"wrong shape or number: .*experts.gate_up_proj"),
    (lambda t: t[W2][0].fill_(torch.nan), "NaN or Inf: model.layers.1.mlp.experts.down_proj"),
    (lambda t: [t.pop(name) for name in list(t) if "layers.1.block" in name and "experts" in name],
     r"missing: .*experts.down_proj, .*experts.gate_up_proj \(2 in all\)"),
    (another_layer, NO_PLACE)], ids=range(5))
def test_a_mixtures_experts_are_all_there(mixtral_folder, change, said):
    check_written(mixtral_folder)
    edit(mixtral_folder, change)
    with pytest.raises(UserError, match=f"--model.*{said}"):
        load(mixtral_folder)
    if "NaN" not in said:  # names and shapes alone
        with pytest.raises(UserError, match=rf"{mixtral_folder} \(just written\): .*{said}"):
            check_written(mixtral_folder)


@pytest.mark.parametrize(("changes", "said"), [
    ({"num_hidden_layers": 3}, r"missing: model.layers.2.*\(9 in all\)"),
    ({"num_hidden_layers": 1}, f"{NO_PLACE}model.layers.1"),
    ({"tie_word_embeddings": False, "vocab_size": 261}, r"lm_head.weight \[260, 32\] for \[261, 32\]"),
    ({"hidden_act": "nothing"}, "KeyError: 'nothing'"), ({"num_attention_heads": 0}, "ZeroDivisionError"),
    ({"hidden_size": "32"}, "expected int, got str")], ids=str)
def test_a_configuration_of_another_model_is_refused(model_folder, changes, said):
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UserError, match=said):
        load(model_folder)


@pytest.mark.parametrize("change", [
    lambda t: t.update({"mtp.fc.weight": torch.ones(3), "v_head.summary.weight": torch.ones(1, 32)}),
    lambda t: t.update({"score.bias": torch.ones(1), "model.visual.blocks.0.norm.bias": torch.ones(3)}),
    lambda t: t.update({f"model.layers.0.self_attn.{name}": torch.ones(1, 1, 3, 3, dtype=torch.uint8)
                        for name in ("bias", "causal_mask")}),
], ids=["heads", "vision", "mask"])
def test_weights_of_something_else_are_named_and_left_out(model_folder, change):
    edit(model_folder, change)
    with pytest.warns(UserWarning, match="weights that LlamaForCausalLM does not have are left out: "):
        assert torch.equal(load(model_folder).lm_head.weight, make_model().lm_head.weight)


def shards(folder):
    """The same model in several files, and their index."""
    (folder / WEIGHTS).unlink()
    make_model().save_pretrained(folder, max_shard_size="50KB")
    return sorted(folder.glob("model-*.safetensors")), folder / f"{WEIGHTS}.index.json"


@pytest.mark.parametrize("change", [
    lambda folder: edit(folder, lambda t: t.update({name: one.bfloat16() for name, one in t.items()})),
    lambda folder: edit(folder, lambda t: t.update(
        {name.removeprefix("model."): t.pop(name) for name in list(t)})),
    lambda folder: edit(folder, lambda t: t.update(
        {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})),
    shards], ids=["bfloat16", "no prefix", "old buffers", "shards"])
def test_weights_that_transformers_reads_are_taken(model_folder, change, caplog, recwarn):
    change(model_folder)
    assert torch.allclose(load(model_folder).lm_head.weight, make_model().lm_head.weight, atol=0.01)
    assert not recwarn
    assert not caplog.records


def cut(file, size):
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize(("damage", "said"), [
    (lambda folder: cut(folder / WEIGHTS, -9), "model.safetensors cannot be read"),
    (lambda folder: cut(folder / WEIGHTS, 0), "model.safetensors cannot be read"),
    (lambda folder: (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n"),
     "model.safetensors cannot be read"),
    (lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"), "no file named model.safe"),
    (lambda folder: shards(folder)[0][1].unlink(), "model-00002-of-00004.safetensors"),
    (lambda folder: cut(shards(folder)[0][1], -9), "model-00002-of-00004.safetensors cannot be read"),
    (lambda folder: shards(folder)[1].write_text("{"), "model.safetensors.index.json cannot be read"),
    (lambda folder: shards(folder)[1].write_text('{"metadata": 1}'), "KeyError: 'weight_map'"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json' is not a valid JSON file"),
    (lambda folder: (folder / "adapter_config.json").write_text("{}"), "is an adapter, not a whole model"),
], ids=range(10))
def test_a_folder_that_is_not_whole_is_one_line(model_folder, damage, said):
    damage(model_folder)
    with pytest.raises(UserError, match=f"--teacher {model_folder}: .*{said}"):
        load(model_folder, "--teacher")


def test_a_run_does_not_end_with_a_model_that_does_not_load(model_folder, tmp_path, chat, monkeypatch):
    student = make_student(make_model(), ModelOptions(model=str(model_folder), device="cpu"),
                           AdapterOptions(), 0)
    save, state = student.model.save_pretrained, student.model.state_dict()
    del state[UP]
    monkeypatch.setattr(student.model, "save_pretrained",
                        lambda folder, **_: save(folder, state_dict=dict(state)))
    with pytest.raises(UserError, match=f"weights are missing: {UP}"):
        student.finish(tmp_path, chat)


@pytest.mark.parametrize(("change", "said"), [
    (lambda t: t.pop("encoder.layer.0.output.dense.weight"), "missing: encoder.layer.0.output.dense.weight"),
    (lambda t: t.update({"encoder.layer.0.output.dense.bias": torch.ones(3)}), "wrong shape or number"),
    (lambda t: t["encoder.layer.0.output.dense.bias"].fill_(torch.nan), "NaN or Inf"),
], ids=range(3))
def test_an_encoder_is_whole_too(tmp_path, change, said):
    folder = make_home(tmp_path) / "encoder"
    edit(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("pooler")])
    Encoder(folder)
    edit(folder, change)
    with pytest.raises(UserError, match=rf"--encoder {folder}: .*{said}"):
        Encoder(folder)
