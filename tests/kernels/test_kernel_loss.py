"""The torch backend against the float64 reference, and the contract of the public functions."""

import math

import pytest
import torch
from raft_kernels import (
    TopKKLLoss,
    TopKTargets,
    topk_kl_loss,
    topk_kl_loss_from_logits,
    topk_targets,
)
from raft_kernels import reference as dense
from torch.autograd import gradcheck

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def test_worked_numbers_of_the_paper():
    """Teacher .50 .30 .10 renormalise to .5556 .3333 .1111; student .20 .20 .10 to .4 .4 .2."""
    ids = torch.tensor([[4, 0, 2]])
    targets = TopKTargets.from_logprobs(ids, torch.tensor([[0.5, 0.3, 0.1]]).log(), 1.0, 1.0)
    student = torch.full((1, 6), 1e-9)
    student[0, ids[0]] = torch.tensor([0.2, 0.2, 0.1])
    q, p = [5 / 9, 3 / 9, 1 / 9], [0.4, 0.4, 0.2]
    by_hand = sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))
    loss = topk_kl_loss(student.log(), torch.eye(6), targets)
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    assert topk_kl_loss_from_logits(student.log(), targets).item() == pytest.approx(by_hand, 1e-5)
    assert targets.mass.item() == pytest.approx(0.9, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [
    {}, {"bias": True}, {"bias": True, "softcap": 3.0, "logit_scale": 0.5}, {"temperature": 0.7},
])
def test_matches_the_float64_reference(make_case, assert_close, dtype, options):
    case = make_case(dtype=dtype, **options)
    oracle = case.double().run("reference")
    baseline = case.to(torch.float32).run("reference")
    for got, right, usual in zip(case.run("torch"), oracle, baseline, strict=True):
        assert_close(got, right, usual)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sliced_weights_give_the_same(make_case, assert_close, dtype, monkeypatch):
    """Half-precision and strided weights go through bounded float32 slices."""
    from raft_kernels import torch_ops

    monkeypatch.setattr(torch_ops, "WEIGHT_SLICE_BYTES", 10 * 16 * 4)
    monkeypatch.setattr(torch_ops, "LOGIT_SLICE_BYTES", 7 * 97 * 4)
    case = make_case(dtype=dtype, bias=True)
    strided = torch.empty(16, 97, dtype=dtype).T.copy_(case.weight_VD)
    oracle = case.double().run("reference")
    baseline = case.to(torch.float32).run("reference")
    case = type(case)(case.hidden_ND, strided, case.bias_V, case.targets, {})
    for got, right, usual in zip(case.run("torch"), oracle, baseline, strict=True):
        assert_close(got, right, usual)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_gradcheck(make_case, backend):
    """Finite differences of hidden, weight and bias in float64; T^2 of the value included."""
    case = make_case(n=3, vocab=11, d=4, k=5, bias=True, dtype=torch.float64, seed=3)
    weights = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)

    def loss(hidden, weight, bias):
        return topk_kl_loss(hidden, weight, case.targets, bias=bias, softcap=4.0, logit_scale=0.8,
                            token_weights=weights, backend=backend)

    leaves = [t.clone().requires_grad_() for t in (case.hidden_ND, case.weight_VD, case.bias_V)]
    assert gradcheck(loss, leaves)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_temperature_squared_is_in_value_and_gradient(make_case, temperature):
    case = make_case(n=4, dtype=torch.float64, temperature=temperature)
    hidden = case.hidden_ND.clone().requires_grad_()
    loss = topk_kl_loss(hidden, case.weight_VD, case.targets)
    (grad,) = torch.autograd.grad(loss, hidden)
    logits = (case.hidden_ND @ case.weight_VD.T).gather(-1, case.targets.ids)
    q = case.targets.logprobs.double().softmax(-1)
    p = (logits / temperature).softmax(-1)
    value = temperature**2 * (q * (q.log() - p.log())).sum(-1).mean()
    assert loss.item() == pytest.approx(value.item(), rel=1e-12)
    step = 1e-5 * torch.randn_like(case.hidden_ND)
    ahead = topk_kl_loss(case.hidden_ND + step, case.weight_VD, case.targets)
    behind = topk_kl_loss(case.hidden_ND - step, case.weight_VD, case.targets)
    assert (ahead - behind).item() == pytest.approx(2 * (grad * step).sum().item(), rel=1e-6)


def test_reductions_and_weights(make_case):
    case = make_case(n=6, dtype=torch.float64)
    weights = torch.tensor([1.0, 0.0, 0.5, 2.0, 0.0, 3.0], dtype=torch.float64)

    def value(**options):
        return case.run("torch", **options)[0]

    rows = value(reduction="none")
    assert rows.shape == (6,)
    torch.testing.assert_close(value(reduction="sum"), rows.sum())
    torch.testing.assert_close(value(), rows.mean())
    weighted = rows * weights
    torch.testing.assert_close(value(reduction="none", token_weights=weights), weighted)
    torch.testing.assert_close(value(reduction="sum", token_weights=weights), weighted.sum())
    torch.testing.assert_close(value(token_weights=weights), weighted.sum() / weights.sum())
    torch.testing.assert_close(value(token_weights=weights != 0), rows[weights != 0].mean())
    assert value(token_weights=torch.zeros(6)).item() == 0.0


def test_equation_10_over_trajectories(make_case):
    """token_weights = 1 / (B * L_i) with "sum" is the mean over tokens, then over trajectories."""
    case = make_case(n=7, dtype=torch.float64)
    lengths = [2, 4, 1]
    rows = case.run("torch", reduction="none")[0]
    right = torch.stack([r.mean() for r in rows.split(lengths)]).mean()
    weights = torch.cat([torch.full((n,), 1 / (3 * n), dtype=torch.float64) for n in lengths])
    got = case.run("torch", reduction="sum", token_weights=weights)[0]
    torch.testing.assert_close(got, right)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_token_of_weight_zero_never_leaks(make_case, backend):
    case = make_case(n=8, bias=True)
    weights = torch.tensor([1.0, 0, 1, 0, 1, 1, 0, 1])
    clean = case.run(backend, token_weights=weights)
    case.hidden_ND[weights == 0] = float("nan")
    case.targets.logprobs[1] = float("nan")
    for got, right in zip(case.run(backend, token_weights=weights), clean, strict=True):
        assert torch.equal(got, right)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_token_of_weight_zero_takes_no_nan_from_above(make_case, backend):
    case = make_case(n=3, bias=True)
    weights, upstream = torch.tensor([1.0, 0, 1]), torch.tensor([1.0, float("nan"), 1.0])
    options = {"reduction": "none", "token_weights": weights}
    for result in case.run(backend, upstream, **options):
        assert result.isfinite().all()
    logits = torch.randn(3, 97, requires_grad=True)
    topk_kl_loss_from_logits(logits, case.targets, **options).backward(upstream)
    assert logits.grad.isfinite().all()


def test_accumulated_micro_batches_equal_one_batch(make_case):
    case = make_case(n=12, dtype=torch.float64)
    whole = case.run("torch", reduction="sum")
    parts = [type(case)(case.hidden_ND[s], case.weight_VD, None, case.targets[s], {})
             .run("torch", reduction="sum") for s in (slice(0, 5), slice(5, 12))]
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole[0])
    torch.testing.assert_close(torch.cat([parts[0][1], parts[1][1]]), whole[1])
    torch.testing.assert_close(parts[0][2] + parts[1][2], whole[2])


def test_identical_distributions_give_zero_never_less():
    hidden, weight = torch.randn(200, 32), torch.randn(300, 32)
    targets = topk_targets(hidden, weight, 50)
    rows = topk_kl_loss(hidden, weight, targets, reduction="none")
    assert rows.min().item() >= 0
    assert rows.max().item() < 1e-4


def test_from_logits_equals_from_hidden(make_case):
    case = make_case(dtype=torch.float64)
    logits = dense.logits(case.hidden_ND, case.weight_VD).requires_grad_()
    weights = torch.rand(24, dtype=torch.float64)
    loss = topk_kl_loss_from_logits(logits, case.targets, token_weights=weights)
    right = case.run("torch", token_weights=weights)
    torch.testing.assert_close(loss.detach(), right[0])
    (dlogits,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(dlogits @ case.weight_VD, right[1])


def test_module_equals_function(make_case):
    case = make_case(n=4)
    loss = TopKKLLoss(reduction="sum")(case.hidden_ND, case.weight_VD, case.targets)
    assert torch.equal(loss, case.run("torch", reduction="sum")[0])


def test_only_what_needs_a_gradient_gets_one(make_case):
    case = make_case()
    hidden = case.hidden_ND.clone().requires_grad_()
    from raft_kernels import torch_ops

    def refuse(*_):
        raise AssertionError("dWeight was computed for a frozen weight")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_ops, "_grad_weight", refuse)
        topk_kl_loss(hidden, case.weight_VD, case.targets).backward()
        frozen = hidden.grad
        weight = case.weight_VD.clone().requires_grad_()
        with pytest.raises(AssertionError, match="frozen"):
            topk_kl_loss(hidden, weight, case.targets).backward()
    torch.testing.assert_close(frozen, case.run("torch")[1])
    weight = case.weight_VD.clone().requires_grad_()
    topk_kl_loss(case.hidden_ND, weight, case.targets).backward()
    torch.testing.assert_close(weight.grad, case.run("torch")[2])


def test_twice_over_bit_for_bit(make_case):
    case = make_case(n=200, vocab=500, d=32, k=40, bias=True)
    for first, second in zip(case.run("torch"), case.run("torch"), strict=True):
        assert torch.equal(first, second)


def test_the_gradient_of_a_bias_is_bit_for_bit_too():
    """Above 32768 entries PyTorch's own bias[ids] adds its gradient with atomics, on two threads."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(1024, 8), torch.randn(700, 8)
    targets = topk_targets(hidden, weight, 256)
    bias, threads = torch.zeros(700, requires_grad=True), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, *others = (torch.autograd.grad(
            topk_kl_loss(hidden + 0.5, weight, targets, bias=bias), bias)[0] for _ in range(8))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_autocast_leaves_the_precision_alone(make_case, backend):
    case = make_case(n=64)

    def run():
        targets = topk_targets(case.hidden_ND, case.weight_VD, 9, backend=backend)
        loss, *gradients = case.run(backend)
        # the reference's backward pass is PyTorch's own, and does what autocast says
        return [targets.logprobs, loss, *(gradients if backend == "torch" else [])]

    right = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = run()
    for one, other in zip(got, right, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("of", ["hidden", "weight", "bias", "logits"])
def test_second_derivatives_raise(make_case, of):
    """A gradient of the gradient would be wrong, not just missing, so it is refused."""
    case = make_case(n=4, bias=True)
    leaf = {"hidden": case.hidden_ND, "weight": case.weight_VD, "bias": case.bias_V,
            "logits": torch.randn(4, 97)}[of].requires_grad_()
    if of == "logits":
        loss = topk_kl_loss_from_logits(leaf, case.targets)
    else:
        loss = topk_kl_loss(case.hidden_ND, case.weight_VD, case.targets, bias=case.bias_V)
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.square().sum(), leaf)


def test_what_is_kept_for_the_backward_pass(make_case):
    """A float32 gradient and an int64 id per (token, id) pair; nothing of N x V, no float32 copies."""
    case = make_case(n=200, vocab=600, d=4, k=50, bias=True, dtype=torch.bfloat16)
    leaves = [t.requires_grad_() for t in (case.hidden_ND, case.weight_VD, case.bias_V)]
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = topk_kl_loss(leaves[0], leaves[1], case.targets, bias=leaves[2])
    assert loss.requires_grad
    inputs = sum(t.nbytes for t in leaves) + 4 * (200 + 600)  # and what the bias's product is made of
    assert sum(kept.values()) <= 200 * 50 * (4 + 8) + inputs


@pytest.mark.parametrize("weighted", [False, True])
def test_a_divergence_in_slices_is_the_same(make_case, weighted, monkeypatch):
    from raft_kernels import divergence

    case = make_case(n=7, softcap=4.0)
    weights = torch.tensor([1.0, 0, 2, 1, 0.5, 0, 3]) if weighted else None
    whole = case.run(token_weights=weights)
    monkeypatch.setattr(divergence, "SLICE_BYTES", 3 * 9 * 4)
    for one, right in zip(case.run(token_weights=weights), whole, strict=True):
        torch.testing.assert_close(one, right)
