"""The estimate before a run, and what happens where it was wrong."""

from dataclasses import replace

import pytest
import torch
from test_step import OPTIONS, TRAJECTORIES, make_stepper
from tiny import make_model, make_rows

from raft_fast.distillation import (
    Adapter,
    Estimate,
    estimate,
    fitting,
    measure,
    micro_batches,
    plan,
)
from raft_fast.distillation import memory as memory_module
from raft_fast.distillation.examples import Limits
from raft_fast.distillation.memory import _activations, _saved
from raft_fast.distillation.optimizer import checkpoint_activations
from raft_fast.distillation.out_of_memory import run_halving
from raft_fast.distillation.random_state import random_state
from raft_fast.distillation.show_memory import show_memory
from raft_fast.models.packing import lay_out
from raft_fast.recipes import terms_of
from raft_fast.run.errors import UserError
from raft_fast.run.options import AdapterOptions


def scarce(stepper, rows):
    """Memory for at most `rows` rows a pass; the device runs out in the middle of the backward pass."""
    real = stepper.student_pass.forward

    def forward(examples, targets, counts):
        losses, measures = real(examples, targets, counts)
        if len(examples) > rows:
            torch.rand(3)  # random numbers were drawn before it failed
            losses.sum().backward()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore lines")
        return losses, measures

    stepper.student_pass.forward = forward


def lengths_of(rows, chat, options):
    """The micro-batches of a plan, four rows a step."""
    lengths = measure(rows, chat, terms_of("raft", options), options)
    return micro_batches(plan(rows, options, 0, 4), lengths, options)


def examples_of(stepper, rows):
    return [stepper.example(row, [z]) for row, z in zip(rows, TRAJECTORIES, strict=True)]


@pytest.mark.parametrize("fits", [1, 2, 3])
@pytest.mark.parametrize("balance", ["gradient", "ema"])
def test_halving_gives_the_same_gradient_at_equal_lambda(chat, rows, fits, balance):
    gradients, states = [], []
    for is_scarce in (False, True):
        torch.manual_seed(3)
        stepper = make_stepper(make_model(0), make_model(1), chat, replace(OPTIONS, balance=balance))
        stepper.balance.weight = lambda: 0.7
        stepper.balance.weight_with = lambda *_: torch.tensor(0.7, dtype=torch.float64)
        stepper.optimizer.step = lambda: None
        if is_scarce:
            scarce(stepper, fits)
        run_halving(stepper, examples_of(stepper, rows[:4]))
        gradients.append([p.grad.clone() for p in stepper.parameters])
        states.append(random_state()["torch"])
    for whole, cut in zip(*gradients, strict=True):
        assert (whole - cut).norm() <= 1e-5 * whole.norm()
    assert states[0] == states[1]  # the random numbers of the failed tries were taken back
    assert stepper.limits.rows <= max(fits, 1)


def test_micro_batches_stay_halved_and_one_row_gives_up(chat, rows, capsys):
    stepper = make_stepper(make_model(0), make_model(1), chat)
    scarce(stepper, 2)
    run_halving(stepper, examples_of(stepper, rows[:4]))
    assert stepper.limits.rows == 2
    assert capsys.readouterr().err.count("out of memory with 4 rows") == 1
    run_halving(stepper, examples_of(stepper, rows[:4]))
    assert capsys.readouterr().err == ""
    scarce(stepper, 0)
    with pytest.raises(UserError, match=r"with one row of \d+ tokens \(CUDA out of memory.*\): --gradient"):
        run_halving(stepper, examples_of(stepper, rows[:4]))


def test_an_update_that_ran_out_of_memory_is_never_repeated(chat, rows):
    stepper = make_stepper(make_model(0), make_model(1), chat)

    def out(*_):
        raise torch.OutOfMemoryError("no room")

    stepper.optimizer._init_group = out
    with pytest.raises(UserError, match="while the optimizer made its state"):
        run_halving(stepper, examples_of(stepper, rows[:4]))


def test_activations_are_what_autograd_keeps():
    model = make_model(0)
    kept, fixed = _activations(model)
    assert kept * 400 == pytest.approx(_saved(model.train(), 400), rel=0.1)
    assert kept * 128 + fixed == pytest.approx(_saved(model.train(), 128), abs=64)
    before = torch.get_rng_state()
    checkpoint_activations(model)
    assert _activations(model)[0] == pytest.approx(kept, rel=0.02)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_the_parts_of_an_estimate(chat):
    model, options = make_model(0), replace(OPTIONS, max_completion_length=8)
    rows = make_rows(6)
    lengths = lengths_of(rows, chat, options)
    numbers = sum(p.numel() for p in model.parameters())
    found = estimate(model, make_model(0), lengths, options)
    assert found.staying == {"gradients": 4 * numbers, "AdamW": 8 * numbers}
    assert found.loaded == 2 * 4 * numbers
    assert estimate(model, model, lengths, options).loaded == 4 * numbers  # LoRA: one copy
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    assert estimate(model, None, lengths, options).staying["gradients"] == 4 * model.lm_head.weight.numel()


def test_fsdp2_divides_what_it_shards(chat):
    """Weights, gradients and optimizer state by the number of processes; what it gathers comes on top."""
    model, teacher = make_model(0), make_model(1)
    options = replace(OPTIONS, max_completion_length=8, parallelism="fsdp2")
    lengths = lengths_of(make_rows(6), chat, options)
    alone, four = (estimate(model, teacher, lengths, options, processes) for processes in (1, 4))
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert alone.staying["gradients"] == weights
    assert four.staying == {"gradients": weights // 4, "AdamW": weights // 2}
    assert four.loaded == weights // 4 + weights
    assert alone.loaded == 2 * weights
    layer = 4 * sum(p.numel() for p in model.model.layers[0].parameters())
    gathered = 2 * (weights - 2 * layer) + 3 * layer
    assert four.passing["activations"] == alone.passing["activations"] + gathered
    assert four.passing["rollouts"] == alone.passing["rollouts"] + weights  # a whole copy samples
    copied = estimate(model, teacher, lengths, replace(options, parallelism="ddp"), 4)
    assert copied.staying == alone.staying


def test_rollout_engines_hold_what_is_theirs(chat, monkeypatch):
    """On a GPU: vLLM its share while it is awake, a server nothing here, generate the weights in bf16."""
    model, options = make_model(0), replace(OPTIONS, max_completion_length=8)
    lengths = lengths_of(make_rows(6), chat, options)
    here = estimate(model, make_model(1), lengths, options).passing["rollouts"]
    monkeypatch.setattr(memory_module, "is_mixed", lambda model: True)
    found = {}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 10 << 30))
    for engine in ("transformers", "vllm", "vllm_server"):
        asked = replace(options, rollout_engine=engine, vllm_gpu_memory_utilization=0.25)
        found[engine] = estimate(model, make_model(1), lengths, asked).passing["rollouts"]
    assert found == {"transformers": here + 2 * sum(p.numel() for p in model.parameters()),
                     "vllm": 10 * (1 << 30) // 4, "vllm_server": 0}


def test_what_needs_less_is_estimated_at_less(chat):
    """bf16 halves what a token keeps, LoRA trains little, checkpointing keeps the layers' inputs."""
    options = replace(OPTIONS, max_completion_length=8)
    lengths = lengths_of(make_rows(6), chat, options)
    plain = estimate(make_model(0, num_hidden_layers=8), None, lengths, options)
    assert _activations(make_model(0).bfloat16())[0] == pytest.approx(_activations(make_model(0))[0] / 2,
                                                                     rel=0.2)
    again = estimate(make_model(0, num_hidden_layers=8), None, lengths,
                     replace(options, gradient_checkpointing=True))
    assert again.passing["activations"] < plain.passing["activations"] / 2
    original = make_model(0)
    adapted = Adapter(original, AdapterOptions(use_peft=True)).model
    lora = estimate(adapted, adapted, lengths, options)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert lora.staying == {"gradients": 4 * trained, "AdamW": 8 * trained}
    assert lora.loaded == 4 * sum(p.numel() for p in adapted.parameters())  # student and teacher are one


@pytest.mark.parametrize("off", [None, "sft", "distillation", "teacher_sees_answer"])
def test_micro_batches_are_those_that_the_loop_cuts(chat, off):
    """With trajectories as long as they may be: what student and teacher read, and what enters a row."""
    rows, options = make_rows(6), replace(OPTIONS, max_completion_length=8, **({off: False} if off else {}))
    steps, lengths = plan(rows, options, 0, 4), measure(rows, chat, terms_of("raft", options), options)
    stepper = make_stepper(make_model(0), make_model(1), chat, options)
    for asked in (options, replace(options, max_tokens_per_micro_batch=400, per_device_train_batch_size=2)):
        limits = Limits(asked.per_device_train_batch_size, asked.max_tokens_per_micro_batch)
        cuts = [cut for step in steps
                for cut in limits.cut([stepper.example(row, [[70] * 8]) for row in step])]
        found = micro_batches(steps, lengths, asked)
        assert [one.tokens for one in found] == [sum(example.tokens for example in cut) for cut in cuts]
        assert [one.taught for one in found] == [
            sum(len(view.ids) for example in cut for view in example.teachers) for cut in cuts]
        entering = [sum(segment.added for example in cut for segment in lay_out(example.students, share=True))
                    for cut in cuts]
        assert [one.tokens for one in micro_batches(steps, lengths, asked, share=True)] == entering


def test_every_row_is_tokenised_once_whatever_the_epochs(chat, monkeypatch):
    seen, rows, options = [], make_rows(6), replace(OPTIONS, num_train_epochs=50)
    monkeypatch.setattr(chat.template, "prompt", lambda messages, answer="": seen.append(messages) or [1])
    told = []
    lengths = measure(rows, chat, terms_of("raft", options), options, lambda: told.append(1))
    micro_batches(plan(rows, options, 0, 4), lengths, options)
    fitting(rows, lengths, options, 512)
    assert (len(seen), len(told)) == (12, 6)  # the student's prompt and the teacher's


def test_what_does_not_fit_is_said_before_it_costs_anything(capsys, monkeypatch):
    monkeypatch.setattr(memory_module.psutil, "virtual_memory", lambda: type("M", (), {"available": 7}))
    assert memory_module.free_memory(torch.device("cpu")) == 7
    for free, said in ((1 << 40, False), (1 << 20, True)):
        show_memory(Estimate({"gradients": 1 << 30, "AdamW": 2 << 30}, {"activations": 1 << 30}, 0, free))
        text = capsys.readouterr().err
        assert ("will probably not fit" in text) == said
        assert "4.00" in text
