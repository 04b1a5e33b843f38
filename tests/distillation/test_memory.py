"""The estimate before a run, and what happens where it was wrong."""

from dataclasses import replace

import pytest
import torch
from test_step import OPTIONS, TRAJECTORIES, make_stepper
from tiny import make_model, make_rows

from raft_fast.distillation import Adapter, Estimate, estimate, fitting, measure, memory, plan
from raft_fast.distillation.checkpoint import random_state
from raft_fast.distillation.memory import run_halving
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


def estimated(student, teacher, chat, options=OPTIONS, processes=1, rows=None):
    """Of trajectories of eight tokens."""
    options = replace(options, max_completion_length=8)
    lengths = measure(rows or make_rows(6), chat, terms_of("raft", options), options)
    return estimate(student, teacher, lengths, options, processes)


def test_what_stays_is_counted(chat):
    model = make_model(0)
    numbers = sum(p.numel() for p in model.parameters())
    found = estimated(model, make_model(0), chat)
    assert found.staying == {"gradients": 4 * numbers, "AdamW": 8 * numbers}
    assert found.loaded == 2 * 4 * numbers
    four = estimated(model, make_model(0), chat, replace(OPTIONS, parallelism="fsdp2"), 4)
    assert four.staying == {"gradients": numbers, "AdamW": 2 * numbers}
    assert four.loaded == numbers + 4 * numbers
    assert four.passing["rollouts"] == found.passing["rollouts"] + 4 * numbers  # a whole copy samples
    assert estimated(model, make_model(0), chat, processes=4).staying == found.staying
    adapted = Adapter(model, AdapterOptions(use_peft=True)).model  # student and teacher are one
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    lora = estimated(adapted, adapted, chat)
    assert lora.staying == {"gradients": 4 * trained, "AdamW": 8 * trained}
    assert lora.loaded == 4 * sum(p.numel() for p in adapted.parameters())


def test_activations_are_what_autograd_keeps():
    model, before = make_model(0), torch.get_rng_state()
    token, once = memory._activations(model, checkpointing=False)
    kept = token * 2 / 3  # of two layers, whose states are kept; one layer's gradients come on top
    assert kept * 400 + once == pytest.approx(memory._saved(model.train(), 400), rel=0.1)
    assert torch.equal(torch.get_rng_state(), before)
    half, _ = memory._activations(make_model(0).bfloat16(), checkpointing=False)
    assert half == pytest.approx(token / 2, rel=0.2)
    deep = make_model(0, num_hidden_layers=8)
    assert memory._activations(deep, True)[0] < memory._activations(deep, False)[0] / 2


@pytest.mark.parametrize("less", [{"sft": False}, {"distillation": False}, {"per_device_train_batch_size": 2},
                                  {"max_tokens_per_micro_batch": 100}, {"gradient_checkpointing": True}])
def test_what_needs_less_is_estimated_at_less(chat, less):
    model, options = make_model(0, num_hidden_layers=8), replace(OPTIONS, num_generations=2)
    activations = [estimated(model, make_model(1), chat, asked).passing["activations"]
                   for asked in (options, replace(options, **less))]
    assert activations[1] < activations[0]


def test_one_long_row_is_a_micro_batch_of_its_own(chat):
    rows = make_rows(6)
    rows[3] = replace(rows[3], completion="x" * 200)
    capped = replace(OPTIONS, max_tokens_per_micro_batch=10)
    found, alone = (estimated(make_model(0), None, chat, capped, rows=own) for own in (rows, rows[3:4]))
    assert found.passing == alone.passing


def test_rollout_engines_hold_what_is_theirs(chat, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 10 << 30))
    found = {engine: estimated(make_model(0), make_model(1), chat, replace(
        OPTIONS, rollout_engine=engine, vllm_gpu_memory_utilization=0.25)).passing["rollouts"]
        for engine in ("transformers", "vllm", "vllm_server")}
    assert found.pop("transformers") > 0
    assert found == {"vllm": 10 * (1 << 30) // 4, "vllm_server": 0}


def test_every_row_is_tokenised_once_whatever_the_epochs(chat, monkeypatch):
    seen, rows, options = [], make_rows(6), replace(OPTIONS, num_train_epochs=50)
    monkeypatch.setattr(chat.template, "prompt", lambda messages, answer="": seen.append(messages) or [1])
    told = []
    lengths = measure(rows, chat, terms_of("raft", options), options, lambda: told.append(1))
    estimate(make_model(0), None, lengths, options)
    plan(rows, options, 0, 4)
    fitting(rows, lengths, options, 512)
    assert (len(seen), len(told)) == (12, 6)  # the student's prompt and the teacher's


def test_what_does_not_fit_is_said_before_it_costs_anything(capsys, monkeypatch):
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: type("M", (), {"available": 7}))
    assert memory.free_memory(torch.device("cpu")) == 7
    for free, said in ((1 << 40, False), (1 << 20, True)):
        Estimate({"gradients": 1 << 30, "AdamW": 2 << 30}, {"activations": 1 << 30}, 0, free).show()
        text = capsys.readouterr().err
        assert ("will probably not fit" in text) == said
        assert "4.00" in text
