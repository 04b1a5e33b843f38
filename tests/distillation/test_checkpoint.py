"""Checkpoints: killed or out of disk at every file-system call, damaged afterwards, and what is in them."""

import errno
import itertools
import shutil

import pytest
import torch
from faults import Killed, calls, fault
from safetensors.torch import load_file, save_file
from tiny import make_model
from transformers import AutoModelForCausalLM, MixtralConfig
from watched_run import same_weights

from raft_fast.distillation import FullWeights
from raft_fast.distillation.checkpoint import moments, restore, save_checkpoint
from raft_fast.distillation.weights import read_safetensors
from raft_fast.run.errors import UserError


class OneTensor:
    """The least there can be to save."""

    def __init__(self, value):
        self.tensor = torch.full((3,), float(value), requires_grad=True)
        self.optimizer = torch.optim.AdamW([self.tensor], lr=0.0)

    def save(self, folder):
        folder.mkdir()
        save_file({"tensor": self.tensor.detach()}, folder / "tensor.safetensors")

    def read(self, folder):
        return read_safetensors(folder, {"tensor"})

    def put(self, tensors):
        self.tensor.data.copy_(tensors["tensor"])


def save(folder, step):
    """A checkpoint whose every part says which step it is."""
    weights = OneTensor(step)
    weights.tensor.grad = torch.full((3,), float(step))
    weights.optimizer.step()
    return save_checkpoint(folder, step, weights, moments(weights.optimizer),
                           {"note": step, "rows": "same"}, keep=2)


def load(folder):
    """The step every part agrees on."""
    weights = OneTensor(-1)
    if (state := restore(folder, weights, weights.optimizer, "same")) is None:
        return None
    step = state["step"]
    assert state["note"] == step
    assert torch.equal(weights.tensor, torch.full((3,), float(step)))
    moment = weights.optimizer.state[weights.tensor]["exp_avg"]
    assert torch.allclose(moment, torch.full((3,), 0.1 * step))
    return step


@pytest.mark.parametrize(("error", "only"), [
    (Killed(), {}),
    (OSError(errno.ENOSPC, "No space left"), {"events": {"open", "os.mkdir", "os.rename", "fsync"}})])
def test_an_end_at_any_call_leaves_the_old_or_the_new_checkpoint(tmp_path, monkeypatch, capsys, error, only):
    """And the next save succeeds, tidies up and keeps two. A full disk leaves no half itself."""
    for step in (1, 2):
        save(tmp_path / "before", step)
    found = set()
    for at in itertools.count():
        folder = tmp_path / f"fault-{at}"
        shutil.copytree(tmp_path / "before", folder)
        (folder / ".partial-step-000009").mkdir()  # of an earlier kill
        with fault(folder, monkeypatch, at, error, **only) as failed:
            try:
                save(folder, 3)
            except type(error):
                assert failed
        if not failed:
            break
        found.add(step := load(folder))
        assert isinstance(error, Killed) or step == 3 or not (folder / ".partial-step-000003").exists()
        save(folder, 4)
        assert load(folder) == 4
        assert len(list(folder.iterdir())) == 2
    assert found == {2, 3}
    assert capsys.readouterr().err == ""


def test_every_file_is_durable_before_the_name_and_the_name_before_anything_else(tmp_path, monkeypatch):
    with calls(tmp_path, monkeypatch) as seen:
        target = save(tmp_path, 3)
    partial = tmp_path / ".partial-step-000003"
    renamed = seen.index(("os.rename", str(partial)))
    for path in (partial, *(partial / path.relative_to(target) for path in target.rglob("*"))):
        assert ("fsync", str(path)) in seen[:renamed]
    assert ("fsync", str(tmp_path)) in seen[renamed:]


def test_where_every_checkpoint_is_damaged_the_run_is_refused_and_nothing_else_is_said(tmp_path, capsys):
    for step in (1, 2):
        (save(tmp_path, step) / "state.json").write_text("{}")
    with pytest.raises(UserError, match="2 is damaged .*; .*1 is damaged .* and there is no other: .* remove "
                                        rf"the folder {tmp_path} to train from the start; stage 1's .* kept"):
        load(tmp_path)
    assert capsys.readouterr().err == ""
    assert load(tmp_path / "nothing") is None


def test_a_checkpoint_of_other_rows_changes_no_weights(tmp_path):
    save(tmp_path, 1)
    weights = OneTensor(-1)
    with pytest.raises(UserError, match="its steps had other rows"):
        restore(tmp_path, weights, weights.optimizer, "others")
    assert torch.equal(weights.tensor, torch.full((3,), -1.0))


def family(name, seed):
    """Experts, whose names in transformers' own folders differ from those in memory, and tied weights."""
    torch.manual_seed(seed)
    if name == "mixtral":
        return AutoModelForCausalLM.from_config(MixtralConfig(
            vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, num_local_experts=4))
    return make_model(seed, tie_word_embeddings=name == "tied")


@pytest.mark.parametrize("name", ["tied", "untied", "mixtral"])
def test_weights_come_back_as_they_were_and_only_in_their_model(tmp_path, name):
    saved, other = family(name, 0), family(name, 1)
    FullWeights(saved).save(tmp_path / "model")
    weights = FullWeights(other)
    weights.put(weights.read(tmp_path / "model"))
    assert same_weights(other.state_dict(), saved.state_dict())
    assert ("lm_head.weight" in load_file(tmp_path / "model/model.safetensors")) is (name != "tied")
    assert (other.lm_head.weight is other.get_input_embeddings().weight) is (name == "tied")
    with pytest.raises(ValueError, match="its weights are not the model's"):
        FullWeights(family("mixtral" if name != "mixtral" else "tied", 0)).read(tmp_path / "model")
