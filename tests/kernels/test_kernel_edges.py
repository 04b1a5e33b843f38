"""Shapes, strides and values at the edge, and what is never allocated."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from raft_kernels import (
    DIVERGENCES,
    TopKKLLoss,
    TopKTargets,
    topk_kl_loss,
    topk_kl_loss_from_logits,
    topk_targets,
    torch_ops,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Watch(TorchDispatchMode):
    """Remembers the most bytes of any tensor made; it sees nothing made inside a custom operator."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_of_size_n_by_v_is_ever_allocated(dtype):
    n, vocab, d, k = 3000, 8192, 8, 16  # logits would be 98 MB in float32
    hidden, weight = torch.randn(n, d).to(dtype), torch.randn(vocab, d).to(dtype)
    bias = torch.randn(vocab).to(dtype)

    def largest_of_select():
        with Watch() as watch:
            ids, _, _ = torch_ops.select(hidden, weight, bias, k, 1.5, 0.5, 5.0)
        return watch.largest, ids

    largest, ids = largest_of_select()
    assert largest <= torch_ops.LOGIT_SLICE_BYTES < n * vocab * 4 / 2
    with pytest.MonkeyPatch.context() as patch:  # the watch sees a slice that is too large
        patch.setattr(torch_ops, "LOGIT_SLICE_BYTES", 1 << 40)
        assert largest_of_select()[0] == n * vocab * 4

    with Watch() as watch:
        torch_ops.sampled_logits(hidden, weight, ids, None)
        torch_ops.sampled_backward(torch.randn(n, k), hidden, weight, ids, None, True, True)
    assert watch.largest <= 8 * max(n * k, vocab * d)
    hidden.requires_grad_(), weight.requires_grad_()
    targets = topk_targets(hidden, weight, k)
    with Watch() as watch:  # and what is made around the operators
        topk_kl_loss(hidden, weight, targets).backward()
    assert watch.largest <= 8 * max(n * k, vocab * d)


def test_no_tokens_give_zero_with_zero_gradients(make_case):
    for backend in ("torch", "reference"):
        case = make_case(n=0, bias=True)
        for reduction in ("mean", "sum", "none"):
            loss, *gradients = case.run(backend, reduction=reduction)
            assert loss.sum().item() == 0.0
            assert all(g.abs().sum() == 0 for g in gradients)
    assert topk_targets(torch.empty(0, 4), torch.randn(9, 4), 3).ids.shape == (0, 3)


def test_every_token_dropped(make_case):
    case = make_case(n=5, bias=True)
    case.hidden_ND.fill_(float("nan"))
    for result in case.run("torch", token_weights=torch.zeros(5)):
        assert result.abs().sum().item() == 0.0


def test_k_equal_to_the_vocabulary(make_case, assert_close):
    case = make_case(vocab=12, k=12)
    oracle, usual = case.double().run("reference"), case.run("reference")
    for got, right, base in zip(case.run("torch"), oracle, usual, strict=True):
        assert_close(got, right, base)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_hidden_states_give_a_non_finite_loss(make_case, poison):
    case = make_case(n=4)
    case.hidden_ND[2, 1] = poison
    rows = case.run("torch", reduction="none")[0]
    assert not rows[2].isfinite()
    assert rows[[0, 1, 3]].isfinite().all()
    assert not case.run("torch")[0].isfinite()


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_a_cap_does_not_hide_what_is_not_finite(make_case, backend, poison):
    """tanh(inf) = 1 is a plausible logit; an overflow must stay visible behind it."""
    case = make_case(n=4, softcap=5.0)
    case.hidden_ND[2, 1] = poison
    rows = case.run(backend, reduction="none")[0]
    assert not rows[2].isfinite()
    assert rows[[0, 1, 3]].isfinite().all()
    loss, dhidden, _ = case.run(backend)
    assert not loss.isfinite()
    assert not dhidden[2].isfinite().any()
    targets = topk_targets(case.hidden_ND, case.weight_VD, 5, softcap=5.0, backend=backend)
    assert targets.logprobs[2].isnan().all()
    assert targets.logprobs[[0, 1, 3]].isfinite().all()
    masked = torch.zeros(97)
    masked[7] = float("-inf")  # with a cap it is no probability of 0
    targets = topk_targets(
        torch.ones(1, 16), case.weight_VD, 5, bias=masked, softcap=5.0, backend=backend)
    assert targets.logprobs.isnan().all()


@pytest.mark.parametrize("k", range(2, 21))
def test_select_ranks_nan_above_everything(k):
    """inf * 0 is NaN: rows of NaN, inf and -inf, cut at every place."""
    torch.manual_seed(0)
    weight = torch.randint(-1, 2, (20, 8)).float()
    hidden = torch.randn(4, 8)
    hidden[1, 0], hidden[2] = float("inf"), 1.0
    bias = torch.zeros(20)
    bias[0], bias[6:9] = float("nan"), float("-inf")
    for b in (None, bias):
        got = topk_targets(hidden, weight, k, bias=b, backend="torch").ids
        assert torch.equal(got, topk_targets(hidden, weight, k, bias=b, backend="reference").ids)


@pytest.mark.parametrize("scale", [1e-4, 1e2, 1e4])
def test_logits_of_any_size(make_case, assert_close, scale):
    """Logits of 1e5 neither overflow nor lose the row's softmax; tiny ones are near uniform."""
    case = make_case()
    case.hidden_ND.mul_(scale)
    oracle, usual = case.double().run("reference"), case.run("reference")
    for got, right, base in zip(case.run("torch"), oracle, usual, strict=True):
        assert got.isfinite().all()
        assert_close(got, right, base)


def test_teacher_ids_of_probability_zero_cost_nothing(make_case):
    """-inf log-probs (a server gave fewer than K) add neither value nor NaN."""
    case = make_case(n=3, k=6, dtype=torch.float64)
    full = case.targets
    short = TopKTargets(full.ids[:, :4], full.logprobs[:, :4], 1.5)
    logprobs = full.logprobs.clone()
    logprobs[:, 4:] = float("-inf")
    padded = TopKTargets(full.ids, logprobs, 1.5)
    loss = topk_kl_loss(case.hidden_ND, case.weight_VD, padded, reduction="none")
    assert loss.isfinite().all()
    # the student's mass on the two extra ids is a cost of its own: -log of what is left
    logits = (case.hidden_ND @ case.weight_VD.T / 1.5).gather(-1, full.ids)
    left = logits.log_softmax(-1)[:, :4].logsumexp(-1)
    inside = topk_kl_loss(case.hidden_ND, case.weight_VD, short, reduction="none")
    torch.testing.assert_close(loss, inside - 1.5**2 * left)


def in_inference_mode(make, *args, **options):
    """What a teacher hands over that was asked in inference mode."""
    with torch.inference_mode():
        return make(*args, **options)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("trained", ["hidden", "weight", "bias"])
def test_what_inference_mode_made_is_as_good_as_any(make_case, trained, divergence, backend):
    """Targets, and all that is not trained: value and gradient to the bit, whatever the reduction weighs."""
    case = make_case(n=5, k=6, dtype=torch.float64, bias=True)
    token_weights = torch.tensor([1.0, 0, 2, 1, 1])

    def run(make):
        parts = {"hidden": case.hidden_ND, "weight": case.weight_VD, "bias": case.bias_V}
        own = {name: make(tensor.clone) for name, tensor in parts.items()}
        own[trained] = parts[trained].clone().requires_grad_()
        targets = make(topk_targets, case.hidden_ND + 0.3, case.weight_VD, 6, bias=case.bias_V)
        found = topk_kl_loss(own["hidden"], own["weight"], targets, bias=own["bias"], backend=backend,
                             token_weights=make(token_weights.clone), divergence=divergence)
        return found.detach(), *torch.autograd.grad(found, own[trained])

    for got, right in zip(run(in_inference_mode), run(lambda make, *args, **options: make(*args, **options)),
                          strict=True):
        assert torch.equal(got, right)


@pytest.mark.parametrize("made", ["selected", "built", "from a server", "indexed", "moved"])
def test_targets_are_never_inference_tensors_and_never_copies(made):
    ids, logprobs = torch.tensor([[3, 1], [2, 0]]), torch.tensor([[-0.5, -1.0], [-0.2, -2.0]])
    hidden, weight = torch.randn(2, 8), torch.randn(20, 8)
    with torch.inference_mode():
        own = ids.clone(), logprobs.clone()
        targets = {"selected": lambda: topk_targets(hidden, weight, 2),
                   "built": lambda: TopKTargets(*own, 1.5),
                   "from a server": lambda: TopKTargets.from_logprobs(*own),
                   "indexed": lambda: TopKTargets(*own, 1.5)[:1],
                   "moved": lambda: TopKTargets(*own, 1.5).to("cpu")}[made]()
    assert not targets.ids.is_inference()
    assert not targets.logprobs.is_inference()
    assert made not in ("built", "indexed", "moved") or targets.ids.data_ptr() == own[0].data_ptr()
    logits = torch.randn(len(targets.ids), 20, requires_grad=True)
    topk_kl_loss_from_logits(logits, targets).backward()
    TopKKLLoss()(hidden[: len(targets.ids)], weight.requires_grad_(), targets).backward()
    assert logits.grad.isfinite().all()


def test_a_backward_pass_twice_gives_the_same(make_case):
    case = make_case()
    hidden = case.hidden_ND.clone().requires_grad_()
    loss = topk_kl_loss(hidden, case.weight_VD, case.targets)
    (first,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    (second,) = torch.autograd.grad(loss, hidden)
    assert torch.equal(first, second)


def test_gradient_checkpointing_gives_the_same(make_case):
    from torch.utils.checkpoint import checkpoint

    case = make_case()
    hidden = case.hidden_ND.clone().requires_grad_()
    loss = checkpoint(topk_kl_loss, hidden, case.weight_VD, case.targets, use_reentrant=False)
    (grad,) = torch.autograd.grad(loss, hidden)
    assert torch.equal(grad, case.run("torch")[1])


def test_mixed_dtypes(make_case, assert_close):
    case = make_case(dtype=torch.bfloat16)
    mixed = type(case)(case.hidden_ND.float(), case.weight_VD, None, case.targets, {})
    oracle, usual = case.double().run("reference"), mixed.run("reference")
    got = mixed.run("torch")
    assert [t.dtype for t in got] == [torch.float32, torch.float32, torch.bfloat16]
    for one, right, base in zip(got, oracle, usual, strict=True):
        assert_close(one, right, base)


def test_weight_rows_nobody_names_do_not_matter(make_case):
    """NaN in rows outside every top-K must not reach value or gradient."""
    case = make_case(n=3, k=4)
    right = case.run("torch")
    unused = torch.ones(97, dtype=torch.bool)
    unused[case.targets.ids.unique()] = False
    case.weight_VD[unused] = float("nan")
    for got, want in zip(case.run("torch"), right, strict=True):
        assert torch.equal(got, want)


def test_import_stays_light():
    code = ("import sys, raft_kernels; "
            "assert not {'triton', 'transformers', 'safetensors'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_stride_and_dtype(data, make_case, assert_close):
    """The torch backend equals the oracle whatever the layout; strides never change values."""
    vocab = data.draw(st.integers(2, 70), "vocab")
    case = make_case(
        n=data.draw(st.integers(0, 20), "n"), vocab=vocab, d=data.draw(st.integers(1, 20), "d"),
        k=data.draw(st.integers(2, vocab), "k"), bias=data.draw(st.booleans(), "bias"),
        dtype=data.draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]), "dtype"),
        temperature=data.draw(st.sampled_from([0.3, 1.0, 1.5, 5.0]), "temperature"),
        seed=data.draw(st.integers(0, 1000), "seed"),
    )
    weights = torch.tensor(
        data.draw(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=case.hidden_ND.shape[0],
                           max_size=case.hidden_ND.shape[0]), "weights"), dtype=torch.float32)
    reduction = data.draw(st.sampled_from(["mean", "sum", "none"]), "reduction")
    oracle = case.double().run("reference", token_weights=weights, reduction=reduction)
    usual = case.to(torch.float32).run("reference", token_weights=weights, reduction=reduction)
    if case.hidden_ND.dtype == torch.float64:  # float32's error, at float64's rounding
        usual = [right + (base - right) * 2.0**-29
                 for base, right in zip(usual, oracle, strict=True)]
    layout = data.draw(st.sampled_from(["plain", "transposed", "sliced"]), "layout")
    strided = type(case)(_lay_out(case.hidden_ND, layout), _lay_out(case.weight_VD, layout),
                         case.bias_V, case.targets, {})
    # upstream gradients of stride 0 are what .sum() sends
    upstream = torch.ones(()).expand(oracle[0].shape)
    got = strided.run("torch", upstream, token_weights=weights, reduction=reduction)
    for one, right, base in zip(got, oracle, usual, strict=True):
        assert_close(one, right, base, case.targets.temperature)


def _lay_out(tensor, layout):
    if layout == "transposed":
        return tensor.T.contiguous().T
    if layout == "sliced":
        rows, columns = tensor.shape
        wide = torch.full((rows, columns + 3), float("nan"), dtype=tensor.dtype)
        wide[:, 1:-2] = tensor
        return wide[:, 1:-2]
    return tensor
