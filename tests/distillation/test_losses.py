"""The losses for heads of every kind, against dense logits in float64, and λ (Eqs. 11-12) by hand."""

import copy
import math

import pytest
import torch
from raft_kernels import cross_entropy_sum, topk_targets

from raft_fast.distillation.losses import Balance, kl_loss, sft_loss
from raft_fast.models.architecture import Head


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.5, None), (1.0, 3.0)])
def test_value_and_gradients_are_those_of_dense_logits(bias, scale, softcap):
    """600 tokens: more than one chunk of logits."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight, offset = (torch.randn(*shape, generator=generator, dtype=torch.float64)
                              for shape in ((600, 8), (50, 8), (50,)))
    ids = torch.randint(0, 50, (600,), generator=generator)

    def run(dtype, loss):
        leaves = [tensor.to(dtype, copy=True).requires_grad_() for tensor in (hidden, weight, offset)]
        head = Head(leaves[1], leaves[2] if bias else None, scale, softcap)
        value = loss(leaves[0], head)
        value.backward()
        return [value.detach(), leaves[0].grad, leaves[1].grad, *([leaves[2].grad] if bias else [])]

    def dense(states, head):
        logits = torch.nn.functional.linear(states, head.weight, head.bias) * scale
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        return torch.nn.functional.cross_entropy(logits, ids, reduction="sum") / 600

    exact = run(torch.float64, dense)
    ours = run(torch.float32, lambda states, head: sft_loss(states, ids, head, 600))
    baseline = run(torch.float32, dense)
    for want, got, plain in zip(exact, ours, baseline, strict=True):
        allowed = 3 * (plain - want).norm() + 1e-6 * want.norm()
        assert (got - want).norm() <= allowed


def test_half_precision_states_and_a_float32_head_give_float32_losses():
    """A student's weights are float32, its states bf16 on a GPU. Judged by float64: far closer than a bf16
    number (half its spacing is 2**-9) can be."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*shape, generator=generator).bfloat16() for shape in ((600, 64), (500, 64)))
    ids, bias = torch.randint(0, 500, (600,), generator=generator), torch.randn(500, generator=generator)
    weight = (weight * 0.1).bfloat16().float().requires_grad_()
    teacher = topk_targets(hidden.float(), weight.detach(), k=8, temperature=1.5)
    hidden.requires_grad_()
    for offset in (None, bias.requires_grad_()):
        head = Head(weight, offset, 1.0, None)
        loss = sft_loss(hidden, ids, head, 600)
        logits = hidden.double() @ weight.double().T + (0 if offset is None else offset.double())
        want = torch.nn.functional.cross_entropy(logits, ids)
        assert (loss.double() - want).abs() <= (2**-9 / 8 if offset is None else 0.01) * want
        kl, exact = (kl_loss(states, teacher, head, [400, 0, 200], 2) for states in (hidden, hidden.float()))
        assert loss.dtype == kl.dtype == torch.float32
        assert (kl - exact).abs() <= 0.01 * exact
        (loss + kl).backward()
    assert all(leaf.grad.isfinite().all() for leaf in (hidden, weight, bias))
    assert weight.grad.dtype == bias.grad.dtype == torch.float32


def test_half_precision_gradients_are_no_worse_than_those_of_dense_logits():
    """600 rows are more than one piece."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*shape, generator=generator).bfloat16() for shape in ((600, 64), (500, 64)))
    ids = torch.randint(0, 500, (600,), generator=generator)

    def run(loss, *tensors):
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        return torch.autograd.grad(loss(*leaves), leaves)

    def dense(states, kept):
        logits = (states @ kept.to(states.dtype).T).float()
        return torch.nn.functional.cross_entropy(logits, ids, reduction="sum")

    exact, plain = run(dense, hidden.double(), weight.double()), run(dense, hidden, weight.float())
    ours = run(lambda *both: cross_entropy_sum(*both, ids), hidden, weight.float())
    for want, rounded, got in zip(exact, plain, ours, strict=True):
        assert 0 < (got - want).norm() <= 1.2 * (rounded - want).norm()


@pytest.mark.parametrize(("balance", "sizes", "weight"), [
    (Balance(0.9, 100), [], 1.0),
    (Balance(0.9, 100), [(2.0, 0.5)], 4.0),  # the paper's example
    (Balance(0.9, 100), [(2.0, 1.0), (4.0, 1.0)], (0.9 * 0.2 + 0.1 * 4) / (1 - 0.9**2)),
    (Balance(0.9, 100), [(2.0, 0.0)], 100),  # bounded where the KL is zero
    (Balance(0.9, 100), [(2.0, 0.5), (math.nan, 0.5), (2.0, math.inf)], 4.0),  # bad steps leave no trace
    (Balance(0.9, 100, fixed=0.1), [(5.0, 0.0)], 0.1)])
def test_lambda_by_hand(balance, sizes, weight):
    for sft, kl in sizes:
        balance.update(sft, kl)
    assert balance.weight() == pytest.approx(weight)


@pytest.mark.parametrize("balance", [Balance(0.9, 100), Balance(0.9, 2), Balance(0.9, 2, fixed=0.5)])
def test_lambda_on_the_device_and_after_a_restart_is_the_same(balance):
    other = copy.deepcopy(balance)
    for sft, kl in ((2.0, 0.5), (3.0, 0.4)):
        ahead = balance.weight_with(torch.tensor(sft), torch.tensor(kl))
        balance.update(sft, kl)
        assert ahead.item() == pytest.approx(balance.weight())
        other.load(balance.state())
        assert other.weight() == balance.weight()
