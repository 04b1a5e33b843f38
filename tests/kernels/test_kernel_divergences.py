"""Every divergence of the table: value and gradient in float64, and the edges of its domain.

A new one needs a row in `FORMULAS`: its textbook sum over probabilities."""

import math
from functools import partial

import pytest
import torch
from raft_kernels import DIVERGENCES, TopKTargets, topk_kl_loss, topk_kl_loss_from_logits, topk_targets
from torch.autograd import gradcheck


def kl(p, q):
    """Sum of p log(p / q), with 0 log 0 = 0."""
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)


def jsd(q, p, beta):
    m = beta * q + (1 - beta) * p
    return beta * kl(q, m) + (1 - beta) * kl(p, m)


FORMULAS = {  # of teacher q and student p
    ("forward_kl", 0.5): kl,
    ("reverse_kl", 0.5): lambda q, p: kl(p, q),
    ("jsd", 0): kl,
    ("jsd", 0.1): partial(jsd, beta=0.1), ("jsd", 0.5): partial(jsd, beta=0.5),
    ("jsd", 1.0): lambda q, p: kl(p, q),
}
BACKENDS = pytest.mark.parametrize("backend", ["torch", "reference"])
assert {divergence for divergence, _ in FORMULAS} == set(DIVERGENCES)
EACH = pytest.mark.parametrize(("divergence", "beta"), FORMULAS)


@EACH
@BACKENDS
@pytest.mark.parametrize("temperature", [0.5, 1.5, 4.0])
def test_values_and_gradients_are_those_of_the_formula(make_case, divergence, beta, backend, temperature):
    """T^2 of the value included."""
    case = make_case(dtype=torch.float64, temperature=temperature)
    logits = (case.hidden_ND @ case.weight_VD.T).requires_grad_()
    q = case.targets.logprobs.double().softmax(-1)
    p = (logits.gather(-1, case.targets.ids) / temperature).softmax(-1)
    right = temperature**2 * FORMULAS[divergence, beta](q, p)
    (gradient,) = torch.autograd.grad(right.sum(), logits)
    options = {"reduction": "none", "divergence": divergence, "beta": beta}
    rows, dhidden, dweight = case.run(backend, **options)
    torch.testing.assert_close(rows, right.detach())
    torch.testing.assert_close(dhidden, gradient @ case.weight_VD)
    torch.testing.assert_close(dweight, gradient.T @ case.hidden_ND)
    from_logits = topk_kl_loss_from_logits(logits, case.targets, **options)
    torch.testing.assert_close(from_logits.detach(), rows)
    torch.testing.assert_close(torch.autograd.grad(from_logits.sum(), logits)[0], gradient)
    if divergence == "jsd" and beta == 0.5:
        assert rows.max() <= temperature**2 * math.log(2)


@EACH
@BACKENDS
def test_finite_differences(make_case, divergence, beta, backend):
    case = make_case(n=3, vocab=11, d=4, k=5, bias=True, dtype=torch.float64, seed=3)
    leaves = [t.clone().requires_grad_() for t in (case.hidden_ND, case.weight_VD, case.bias_V)]
    weights = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    assert gradcheck(lambda h, w, b: topk_kl_loss(
        h, w, case.targets, bias=b, softcap=4.0, logit_scale=0.8, token_weights=weights,
        backend=backend, divergence=divergence, beta=beta), leaves)


@EACH
@BACKENDS
def test_rows_of_weight_zero_never_leak(make_case, divergence, beta, backend):
    """NaN of a dropped row, or from above, reaches nothing, of another its loss; without any row all is 0."""
    options = {"divergence": divergence, "beta": beta}
    case, weights = make_case(n=6, bias=True), torch.tensor([1.0, 0, 1, 0, 1, 2])
    clean = case.run(backend, token_weights=weights, **options)
    case.hidden_ND[weights == 0] = float("nan")
    case.targets.logprobs[1] = float("nan")
    assert all(map(torch.equal, case.run(backend, token_weights=weights, **options), clean))
    upstream = torch.where(weights == 0, torch.nan, 1.0)
    each = options | {"reduction": "none", "token_weights": weights}
    assert all(result.isfinite().all() for result in case.run(backend, upstream, **each))
    logits = torch.randn(6, 97, requires_grad=True)
    topk_kl_loss_from_logits(logits, case.targets, **each).backward(upstream)
    assert logits.grad.isfinite().all()
    assert case.run(backend, reduction="none", **options)[0].isnan().tolist() == (weights == 0).tolist()
    nothing = [case.run(backend, token_weights=torch.zeros(6), **options)]
    nothing += [make_case(n=0, bias=True).run(backend, reduction=reduction, **options)
                for reduction in ("mean", "sum", "none")]
    assert all(result.abs().sum() == 0 for results in nothing for result in results)


@EACH
@BACKENDS
def test_equal_distributions_give_zero_never_less(divergence, beta, backend):
    hidden, weight = torch.randn(200, 32), torch.randn(300, 32)
    targets = topk_targets(hidden, weight, 50)
    hidden.requires_grad_()
    rows = topk_kl_loss(hidden, weight, targets, reduction="none", backend=backend,
                        divergence=divergence, beta=beta)
    assert 0 <= rows.min() <= rows.max() < 1e-4
    (gradient,) = torch.autograd.grad(rows.sum(), hidden)
    assert gradient[rows == 0].abs().sum() > 0  # the value is clamped, its gradient is not


@EACH
def test_ids_of_probability_zero(divergence, beta):
    """-inf log-probs (a server gave fewer than K) give what the formula's limit gives, no NaN."""
    logprobs = torch.tensor([[-0.2, -1.7, -torch.inf]], dtype=torch.float64)
    logits = torch.tensor([[1.0, 0.5, -0.5]], dtype=torch.float64, requires_grad=True)
    targets = TopKTargets(torch.tensor([[0, 1, 2]]), logprobs, 1.0)
    options = {"divergence": divergence, "beta": beta}
    loss = topk_kl_loss_from_logits(logits, targets, **options)
    right = FORMULAS[divergence, beta](logprobs.softmax(-1), logits.softmax(-1)).mean()
    torch.testing.assert_close(loss, right)
    if loss.isfinite():
        assert gradcheck(lambda z: topk_kl_loss_from_logits(z, targets, **options), logits)
