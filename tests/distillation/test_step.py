"""One step against the equations written out densely in float64."""

import copy
import sys
from dataclasses import replace

import pytest
import torch
from tiny import make_model

from raft_fast.distillation import Teacher
from raft_fast.distillation.step import Stepper
from raft_fast.distillation.student import adamw, checkpoint_activations
from raft_fast.distillation.student_pass import StudentPass
from raft_fast.models.packing import pack
from raft_fast.recipes import terms_of
from raft_fast.run.errors import UserError
from raft_fast.run.options import TrainOptions

OPTIONS = TrainOptions(per_device_train_batch_size=4, teacher_top_k=16, learning_rate=1e-2, max_grad_norm=1e9)
TRAJECTORIES = [[70, 71, 72, 2], [80, 2], [], [90, 91, 92, 93, 94]]


def make_stepper(student, teacher_model, chat, options=OPTIONS, terms=None):
    teacher = Teacher(teacher_model, chat, options.teacher_top_k, options.distillation_temperature
                      ) if options.distillation else None
    terms = terms or terms_of("raft", options)
    student_pass = StudentPass(student, terms, chat.pad_id, options.balance == "gradient")
    return Stepper(student_pass, terms, teacher, chat, adamw(student, options), options)


def stepper_of(chat, options=OPTIONS, **changes):
    """Of the usual student and another model as its teacher."""
    return make_stepper(make_model(0), make_model(1), chat, replace(options, **changes))


def run(stepper, rows, trajectories=TRAJECTORIES):
    return stepper.run([stepper.example(row, [trajectory])
                        for row, trajectory in zip(rows, trajectories, strict=True)])


def forward_kl(log_q, log_p):
    return (log_q.exp() * (log_q - log_p)).sum(-1).mean()


def dense_losses(student, teacher, chat, rows, trajectories, skip=0, divergence=forward_kl):
    """L_SFT and L_KL (Eqs. 8-10) one row at a time with full logits, float64."""
    student, teacher = student.double(), teacher.double()
    ce, tokens, kls = torch.zeros((), dtype=torch.float64), 0, []

    def logits(model, prompt, completion):
        return model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]

    for row, z in zip(rows, trajectories, strict=True):
        view = chat.sft_view(row.prompt, row.completion)
        log_p = logits(student, view.prompt, view.completion).log_softmax(-1)
        ce = ce - log_p.gather(1, torch.tensor(view.completion)[:, None]).sum()
        tokens += len(view.completion)
        if len(z) <= skip:
            continue
        u = logits(teacher, chat.teacher_prompt(row.prompt, row.completion), z)[skip:].detach()
        v = logits(student, chat.student_prompt(row.prompt), z)[skip:]
        ids = u.topk(16).indices
        kls.append(divergence(*((each.gather(1, ids) / 1.5).log_softmax(-1) for each in (u, v))))
    return ce / tokens, 1.5**2 * torch.stack(kls).mean()


def without_update(stepper):
    """Keeps the gradient, leaves the weights."""
    stepper.optimizer.step = lambda: None
    return stepper


@pytest.mark.parametrize("tied", [False, True])
def test_losses_and_gradient_are_the_equations(chat, rows, tied):
    """Of a tied head the gradient of both its uses. λ is a number: it is held while the rest is derived."""
    student, exact = (make_model(0, tie_word_embeddings=tied) for _ in range(2))
    teacher = make_model(1)
    before = copy.deepcopy(teacher.state_dict())
    stepper = without_update(make_stepper(student, teacher, chat))
    metrics = run(stepper, rows[:4])
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    sft, kl = dense_losses(exact.double(), make_model(1), chat, rows[:4], TRAJECTORIES)
    want = {"sft_loss": sft.item(), "kl_loss": kl.item(), "lambda": (sft / kl).item(), "ce_kl_ratio": 1.0,
            "loss": 2 * sft.item()}
    assert {key: metrics[key] for key in want} == pytest.approx(want, rel=1e-5)
    assert metrics["lambda_exact"]
    assert stepper.balance.weight() == pytest.approx(metrics["lambda"])
    (sft + (sft / kl).item() * kl).backward()
    for (name, got), want in zip(student.named_parameters(), exact.parameters(), strict=True):
        assert (got.grad.double() - want.grad).norm() < 1e-4 * want.grad.norm(), name


def test_skipped_tokens_are_read_and_not_scored(chat, rows):
    """The rest counts as if the skipped tokens had been the end of either prompt; what has no rest is out.
    The row's answer has the same prompt without them, and shares it."""
    stepper = stepper_of(chat, num_loss_tokens_to_skip=2, sft=False)
    found = run(stepper, rows[:4])
    _, kl = dense_losses(make_model(0), make_model(1), chat, rows[:4], TRAJECTORIES, skip=2)
    assert found["kl_loss"] == pytest.approx(kl.item(), rel=1e-5)
    assert (found["trajectories"], found["trajectory_tokens"]) == (2, 5)
    example = stepper_of(chat, num_loss_tokens_to_skip=2).example(rows[0], [[80, 81, 82, 2]])
    prompt, answer = chat.student_prompt(rows[0].prompt), example.of("sft")[0].student.completion
    packed = pack(example.students, stepper.student_pass.model).inputs["input_ids"]
    assert packed.tolist() == [[*prompt, *answer, 80, 81, 82, 2]]
    with pytest.raises(UserError, match="--num_loss_tokens_to_skip 9: must be below"):
        replace(OPTIONS, num_loss_tokens_to_skip=9, max_completion_length=9)


@pytest.mark.parametrize("cut", [{"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
                                 {"max_tokens_per_micro_batch": 150}, {"max_tokens_per_micro_batch": 10_000}])
@pytest.mark.parametrize("balance", ["fixed", "gradient", "ema"])
def test_micro_batches_change_nothing_at_equal_lambda(chat, rows, balance, cut):
    """By rows or by tokens: losses, gradient and averages are those of one pass."""
    gradients, averages, metrics = [], [], []
    for changes in ({}, cut):
        stepper = without_update(stepper_of(chat, balance=balance, **changes))
        stepper.balance.weight = lambda: 0.7
        stepper.balance.weight_with = lambda sft, kl: torch.full_like(sft, 0.7)
        metrics.append(run(stepper, rows[:4]))
        gradients.append([p.grad.clone() for p in stepper.student_pass.model.parameters()])
        averages.append(stepper.balance.state())
    for whole, part in zip(*gradients, strict=True):
        assert (whole - part).norm() <= 1e-5 * whole.norm()
    assert averages[0] == pytest.approx(averages[1], rel=1e-5)
    same = ("sft_loss", "kl_loss", "teacher_mass", "grad_norm", "tokens")
    assert [metrics[0][key] for key in same] == pytest.approx([metrics[1][key] for key in same], rel=1e-5)
    assert metrics[1]["lambda_exact"] == (10_000 in cut.values())


def test_micro_batches_keep_to_rows_and_tokens(chat, rows):
    stepper = stepper_of(chat)
    examples = [stepper.example(row, [z]) for row, z in zip(rows[:4], TRAJECTORIES, strict=True)]
    two = examples[0].tokens + examples[1].tokens
    for most, tokens, sizes in ((4, 0, [4]), (3, 0, [3, 1]), (4, 1, [1] * 4), (4, two, [2, 2])):
        stepper.options = replace(OPTIONS, per_device_train_batch_size=most,
                                  max_tokens_per_micro_batch=tokens)
        assert [len(micro_batch) for micro_batch in stepper.cut(examples)] == sizes


def test_nothing_waits_for_the_device_before_the_end(chat, rows, monkeypatch):
    """A step's own code reads no number from a tensor while its micro-batches are at work."""
    stepper = stepper_of(chat, balance="gradient", per_device_train_batch_size=2)
    waits = []
    for name in ("item", "__float__", "__bool__", "__int__"):
        def read(tensor, name=name):
            waits.append(sys._getframe(1).f_code.co_filename)
            return getattr(torch._C.TensorBase, name)(tensor)

        monkeypatch.setattr(torch.Tensor, name, read, raising=False)
    update = stepper._update

    def last(*sums):
        assert not [file for file in waits if "raft_fast" in file]
        waits.append("updated")
        return update(*sums)

    stepper._update = last
    run(stepper, rows[:4])
    assert "updated" in waits


def test_with_several_micro_batches_lambda_is_the_step_befores(chat, rows):
    stepper = stepper_of(chat, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    for expected in (1.0, None):
        expected = expected or stepper.balance.weight()
        metrics = run(stepper, rows[:4])
        assert (metrics["lambda"], metrics["lambda_exact"]) == (expected, False)


def test_gradient_balance_equalises_the_norms(chat, rows):
    stepper = stepper_of(chat, balance="gradient", lambda_max=1e9)
    metrics = run(stepper, rows[:4])
    state = stepper.balance.state()
    assert metrics["lambda"] == pytest.approx(state["sft"] / state["kl"], rel=1e-4)
    assert metrics["lambda"] != pytest.approx(metrics["sft_loss"] / metrics["kl_loss"], rel=1e-2)


def test_a_teacher_that_is_the_student_gives_no_kl_and_a_bounded_lambda(chat, rows):
    options = replace(OPTIONS, teacher_sees_answer=False)
    metrics = run(make_stepper(make_model(0), make_model(0), chat, options), rows[:4])
    assert 0 <= metrics["kl_loss"] < 1e-6
    assert (metrics["lambda"], metrics["lambda_bounded"], metrics["skipped"]) == (100, True, False)


def test_gradient_checkpointing_changes_nothing(chat, rows):
    gradients = []
    for prepare in (lambda student: None, checkpoint_activations):
        student = make_model(0).train()
        prepare(student)
        run(without_update(make_stepper(student, make_model(1), chat)), rows[:4])
        gradients.append([p.grad for p in student.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("sft", [True, False])
def test_only_empty_trajectories_leave_the_sft_term_or_nothing(chat, rows, sft):
    stepper = stepper_of(chat, sft=sft)
    before = copy.deepcopy(stepper.student_pass.model.state_dict())
    metrics = run(stepper, rows[:2], [[], []])
    assert metrics["kl_loss"] is metrics["lambda"] is None
    assert metrics["loss"] == metrics["sft_loss"]
    assert metrics["skipped"] == (not sft) == (metrics["loss"] is None)
    assert sft or all(torch.equal(before[k], v) for k, v in stepper.student_pass.model.state_dict().items())


@pytest.mark.parametrize(("sft", "balance", "weight"), [
    (False, "fixed", 2.0), (False, "ema", None), (True, "fixed", 2.0)])
def test_the_kl_term_has_a_weight_that_is_given_or_balanced(chat, rows, sft, balance, weight):
    """One that is given is never called bounded."""
    metrics = run(stepper_of(chat, sft=sft, balance=balance, fixed_lambda=2.0, lambda_max=2.0), rows[:4])
    assert metrics["lambda"] == weight
    assert metrics["loss"] == pytest.approx((metrics["sft_loss"] or 0) + (weight or 1.0) * metrics["kl_loss"])
    assert not metrics["lambda_bounded"]


def test_a_gradient_that_is_not_finite_leaves_the_averages_alone(chat, rows, monkeypatch):
    """Losses may be finite where the gradient is not: λ must not remember a step that never was."""
    stepper = stepper_of(chat)
    run(stepper, rows[:4])
    before = stepper.balance.state()
    weights = [parameter.clone() for parameter in stepper.parameters]
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    metrics = run(stepper, rows[:4])
    assert metrics["skipped_because"] == "not finite"
    assert min(metrics["sft_loss"], metrics["kl_loss"]) > 0
    assert stepper.balance.state() == before
    assert all(map(torch.equal, weights, stepper.parameters))


def test_norms_and_biases_do_not_decay():
    """With no gradient a step is decay alone."""
    model = make_model(0, attention_bias=True)
    for weight in model.parameters():
        weight.data.fill_(2)
        weight.grad = torch.zeros_like(weight)
    adamw(model, replace(OPTIONS, learning_rate=0.1, weight_decay=0.5)).step()
    for name, weight in model.named_parameters():
        kept = "norm" in name or name.endswith("bias")
        assert torch.allclose(weight, torch.tensor(2.0 if kept else 2 * (1 - 0.1 * 0.5))), name
