"""The estimate before a run, and smaller rollouts and micro-batches when memory runs out."""

from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from test_step import OPTIONS, TRAJECTORIES, stepper_of, without_update
from tiny import make_model, make_rows

from raft_fast.distillation import Adapter, Draw, fitting, planning
from raft_fast.distillation.planning import estimate, show_memory
from raft_fast.distillation.rollouts import BatchedRollouts
from raft_fast.distillation.step import run_halving
from raft_fast.engines import Sampling
from raft_fast.engines.generation import Batch
from raft_fast.models.packing import completion_hidden
from raft_fast.recipes import terms_of
from raft_fast.run.errors import UserError
from raft_fast.run.options import AdapterOptions

OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore lines")


def scarce(stepper, rows):
    """Memory for at most `rows` rows a pass; the device runs out in the middle of the backward pass."""
    real = stepper.student_pass.forward

    def forward(examples, targets, counts):
        losses, measures = real(examples, targets, counts)
        if len(examples) > rows:
            torch.rand(3)  # random numbers were drawn before it failed
            losses.sum().backward()
            raise OUT
        return losses, measures

    stepper.student_pass.forward = forward


def halving(stepper, rows):
    pairs = zip(rows[:4], TRAJECTORIES, strict=True)
    return run_halving(stepper, [stepper.example(row, [z]) for row, z in pairs], seed=3)


@pytest.mark.parametrize("fits", [1, 3])
@pytest.mark.parametrize("balance", ["gradient", "ema"])
def test_halving_gives_the_same_gradient_at_equal_lambda(chat, rows, fits, balance):
    gradients, states = [], []
    for most in (4, fits):
        stepper = without_update(stepper_of(chat, balance=balance))
        stepper.balance.weight = lambda: 0.7
        stepper.balance.weight_with = lambda *_: torch.tensor(0.7, dtype=torch.float64)
        scarce(stepper, most)
        halving(stepper, rows)
        gradients.append([p.grad.clone() for p in stepper.parameters])
        states.append(torch.rand(3).tolist())
        assert (stepper.halved_to or 4) <= most
    for whole, cut in zip(*gradients, strict=True):
        assert (whole - cut).norm() <= 1e-5 * whole.norm()
    assert states[0] == states[1]  # a failed try leaves no trace in dropout


def test_micro_batches_stay_halved_and_one_row_gives_up(chat, rows, capsys):
    stepper = stepper_of(chat)
    scarce(stepper, 2)
    for told in (1, 0):
        halving(stepper, rows)
        assert stepper.halved_to == 2
        assert capsys.readouterr().err.count("out of memory with 4 rows") == told
    scarce(stepper, 0)
    with pytest.raises(UserError, match=r"with 1 rows a micro-batch \(CUDA out of.*\): use --gradient"):
        halving(stepper, rows)
    stepper = stepper_of(chat)
    stepper.optimizer._init_group = Mock(side_effect=OUT)
    with pytest.raises(UserError, match="in the optimizer's update"):  # never repeated
        halving(stepper, rows)


def test_rollouts_are_halved_for_good_and_one_trajectory_gives_up(chat, rows, monkeypatch, capsys):
    real, tried, fits = Batch.join, [], [99]

    def join(self, rows):
        tried.append(len(self.rows) + len(rows))
        if tried[-1] > fits[0]:
            raise OUT
        return real(self, rows)

    def sample():
        tried.clear()
        engine.sync(make_model(0))
        return [trajectory.ids for trajectory in engine.sample(draws)]

    monkeypatch.setattr(Batch, "join", join)
    engine = BatchedRollouts(chat, Sampling(4, 1.0))
    draws = [Draw(chat.student_prompt(row.prompt), seed) for seed, row in enumerate(rows)]
    want = sample()
    fits[0] = 2
    for expected in ([6, 3, 2], [2]):
        assert sample() == want
        assert tried[: len(expected)] == expected
        assert max(tried[len(expected) :]) <= 2
    assert capsys.readouterr().err.count("out of memory") == 2
    engine.tokens = max(len(draw.prompt) for draw in draws) + 4
    assert (sample(), tried) == (want, [1] * 6)
    fits[0] = 0
    with pytest.raises(UserError, match=r"sampling one trajectory \(CUDA out of.*1 GiB\): use --gradient"):
        sample()


def estimated(student, chat, options=OPTIONS, processes=1, rows=None):
    """Of trajectories of eight tokens."""
    options = replace(options, max_completion_length=8)
    *_, sizes = fitting(rows or make_rows(6), chat, terms_of("raft", options), options, 10_000)
    return estimate(student, sizes, options, processes)


def test_gradients_and_optimizer_state_are_those_of_the_trained_weights(chat):
    model, sharded = make_model(0), replace(OPTIONS, parallelism="fsdp2")
    adapted = Adapter(make_model(0), AdapterOptions(use_peft=True)).model
    for student, options, processes, parts in ((model, OPTIONS, 1, 1), (model, OPTIONS, 4, 1),
                                               (model, sharded, 4, 4), (adapted, OPTIONS, 1, 1)):
        numbers = sum(p.numel() for p in student.parameters() if p.requires_grad)
        found = estimated(student, chat, options, processes)
        assert (found["gradients"], found["AdamW"]) == (4 * numbers / parts, 8 * numbers / parts)


def test_activations_are_about_what_autograd_keeps(chat):
    """Of one row, whose tokens are packed; the formula counts two more layers for their gradients."""
    kept = {}
    model = make_model(0, hidden_size=128, intermediate_size=256, num_hidden_layers=8).train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    row, options = make_rows(1)[0], replace(OPTIONS, distillation=False)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _ = completion_hidden(model, [chat.sft_view(row.prompt, row.completion)], pad_id=0)
    found = estimated(model, chat, options, rows=[row])["activations"]
    assert found * 8 / 10 == pytest.approx(sum(kept.values()), rel=0.25)
    for less in ({"per_device_train_batch_size": 2}, {"max_tokens_per_micro_batch": 100},
                 {"gradient_checkpointing": True}):
        assert (estimated(model, chat, replace(options, **less))["activations"]
                < estimated(model, chat, options)["activations"])


@pytest.mark.parametrize(("free", "warned"), [(1 << 40, False), (1 << 20, True)])
def test_what_does_not_fit_is_a_warning_before_it_costs_anything(capsys, monkeypatch, free, warned):
    monkeypatch.setattr(planning.psutil, "virtual_memory", lambda: Mock(available=free))
    show_memory({"gradients": 1 << 30, "AdamW": 3 << 30}, torch.device("cpu"))
    text = capsys.readouterr().err
    assert ("will probably not fit: use --gradient" in text) == warned
    assert "4.00" in text
