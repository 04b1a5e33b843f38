"""An adapter inside the model: the teacher is the same weights, and only the adapter is trained and saved.
Families of models: tests/models/test_families.py."""

import copy
import shutil
from dataclasses import replace

import pytest
import torch
from test_loop import OPTIONS
from test_step import make_stepper
from test_step import run as step
from tiny import make_model, make_rows
from torch.utils._python_dispatch import TorchDispatchMode
from watched_run import same_weights, timeless

from raft_fast.distillation import Adapter, Teacher, train
from raft_fast.distillation.checkpoint import checkpoints
from raft_fast.distillation.student import LoraStudent, check_student, checkpoint_activations
from raft_fast.models.chat import View
from raft_fast.recipes import terms_of
from raft_fast.run.errors import UserError
from raft_fast.run.options import AdapterOptions, ModelOptions

LORA = AdapterOptions(use_peft=True, lora_r=4, lora_alpha=8)


def make_student(options=LORA, model=None):
    torch.manual_seed(7)
    return LoraStudent(Adapter(model or make_model(0), options, "tiny"), ModelOptions(device="cpu"))


def teacher_of(student, chat, model=None):
    model = model or student.model
    return Teacher(model, chat, 16, 1.5, teaching=student.teaching(model))


def stepper_of(student, chat, teacher):
    stepper = make_stepper(student.model, make_model(1), chat)
    stepper.teacher = teacher
    return stepper


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_teacher_is_the_original_with_one_copy_of_the_weights(chat, rows, checkpointing):
    original = make_model(0)
    copied = copy.deepcopy(original)
    student = make_student(replace(LORA, lora_dropout=0.5), original)
    for name, value in student.model.train().named_parameters():
        if "lora_B" in name:  # zero at first, and the adapter says nothing
            value.data.normal_(std=0.1)
    if checkpointing:
        checkpoint_activations(student.model)
    views = [View(chat.teacher_prompt(row.prompt, row.completion), [70, 71, 2]) for row in rows]
    shared = teacher_of(student, chat).targets(views)
    alone = Teacher(copied, chat, 16, 1.5).targets(views)
    assert torch.equal(shared.ids, alone.ids)
    assert torch.equal(shared.logprobs, alone.logprobs)
    assert not shared.logprobs.requires_grad
    assert student.model.training
    own = {value.data_ptr() for value in student.model.parameters()}
    assert {value.data_ptr() for value in original.parameters()} <= own


def test_a_step_trains_the_adapter_and_nothing_else(chat, rows):
    student = make_student()
    before = {name: value.clone() for name, value in student.model.named_parameters()}
    metrics = step(stepper_of(student, chat, teacher_of(student, chat)), rows[:4])
    assert metrics["kl_loss"] >= 0
    assert metrics["grad_norm"] > 0
    for name, value in student.model.named_parameters():
        assert torch.equal(value, before[name]) == ("lora_" not in name), name
        assert (value.grad is not None) == ("lora_" in name), name


@pytest.mark.parametrize(("tied", "frozen"), [(True, True), (False, False)])
def test_a_frozen_head_gets_no_gradient_and_none_is_computed(chat, rows, tied, frozen):
    """No [V, D] tensor is made on the way: dWeight of a head costs as much as the rest of the loss."""
    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape in {(260, 32), (32, 260)}:
                made.append((str(func), out.data_ptr()))
            return out

    student = make_student(model=make_model(0, tie_word_embeddings=tied))
    head = student.model.get_output_embeddings().weight.requires_grad_(not frozen)
    teacher = teacher_of(student, chat, make_model(1))
    stepper = stepper_of(student, chat, teacher)
    with Watch():
        step(stepper, rows[:4])
    own = {head.data_ptr(), teacher.head.weight.data_ptr()}
    assert ([call for call in made if call[1] not in own] == []) == frozen
    assert (head.grad is None) == frozen


def test_a_resumed_run_with_dropout_is_the_uninterrupted_run_and_checkpoints_hold_the_adapter(tmp_path, chat):
    options = replace(OPTIONS, num_train_epochs=3, save_total_limit=9, lr_scheduler_type="linear")

    def run():
        (tmp_path / "run").mkdir(exist_ok=True)
        student = make_student(replace(LORA, lora_dropout=0.3))
        train(student.model, teacher_of(student, chat), chat, make_rows(6), terms_of("raft", options),
              options, 0, tmp_path / "run", weights=student.weights)
        return student

    whole, once = run(), timeless(tmp_path / "run")
    first, *later = checkpoints(tmp_path / "run/checkpoints")
    for checkpoint in later:
        shutil.rmtree(checkpoint)
    resumed = run()
    assert timeless(tmp_path / "run") == once
    assert same_weights(resumed.model.state_dict(), whole.model.state_dict())
    names = {path.name for path in (first / "model").iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    assert not names & {"config.json", "model.safetensors"}
    trained = sum(value.numel() for value in whole.model.parameters() if value.requires_grad)
    assert (first / "model/adapter_model.safetensors").stat().st_size < 4 * trained + 10_000


@pytest.mark.parametrize(("names", "tied", "said"), [
    ("nothing_like_it", False, "nothing_like_it"), ("q_projj,v_proj", False, "no layer is called q_projj"),
    ("lm_head", False, r"the head .* cannot have an adapter"), ("q_proj,embed_tokens", True, "also the head"),
    (".*(q|v", False, r"lora_target_modules \.\*\(q\|v: ")])
def test_layers_that_cannot_have_an_adapter_are_named(names, tied, said):
    wrong, original = replace(LORA, lora_target_modules=names), make_model(0, tie_word_embeddings=tied)
    layers = dict(original.named_modules())
    with pytest.raises(UserError, match=said):  # before stage 1, in nobody's model
        check_student(original, wrong)
    assert dict(original.named_modules()) == layers


def test_names_may_be_one_expression():
    names = dict(make_student(replace(LORA, lora_target_modules=r".*\.(q|v)_proj")).model.named_modules())
    wrapped = {name.split(".")[-1] for name, layer in names.items() if hasattr(layer, "lora_A")}
    assert wrapped == {"q_proj", "v_proj"}
