"""Shapes, strides and values at the edge."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from raft_kernels import DIVERGENCES, topk_kl_loss, topk_targets, torch_ops


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_hidden_states_that_are_not_finite_are_never_plausible(make_case, backend, softcap, poison):
    """tanh(inf) = 1 is a plausible logit; an overflow must stay visible behind a cap too."""
    case = make_case(n=4, softcap=softcap)
    case.hidden_ND[2, 1] = poison
    rows = case.run(backend, reduction="none")[0]
    assert rows.isfinite().tolist() == [True, True, False, True]
    loss, dhidden, _ = case.run(backend)
    assert not loss.isfinite()
    assert not dhidden[2].isfinite().any()
    head = (case.hidden_ND, case.weight_VD, 5)
    targets = topk_targets(*head, softcap=softcap, backend=backend)
    assert targets.logprobs.isfinite().all(-1).tolist() == [True, True, False, True]
    assert 0 <= targets.ids.min() <= targets.ids.max() < 97
    if softcap:
        assert targets.logprobs[2].isnan().all()
        masked = torch.where(torch.arange(97) == 7, float("-inf"), 0.0)  # with a cap no probability of 0
        targets = topk_targets(*head, bias=masked, softcap=softcap, backend=backend)
        assert targets.logprobs.isnan().all()


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

    def call(make, *given, **options):
        return make(*given, **options)

    assert all(map(torch.equal, run(torch.inference_mode()(call)), run(call)))


@pytest.mark.parametrize("scale", [1e-4, 1e2, 1e4])
def test_logits_of_any_size(make_case, scale):
    """Logits of 1e5 neither overflow nor lose the row's softmax; tiny ones are near uniform."""
    case = make_case()
    case.hidden_ND.mul_(scale)
    assert all(result.isfinite().all() for result in case.check())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_stride_size_and_dtype(data, make_case):
    """Loss and selection of the torch backend equal the oracle's in any layout, and in several slices."""
    vocab, n = data.draw(st.integers(2, 70), "vocab"), data.draw(st.integers(0, 20), "n")
    temperature = data.draw(st.sampled_from([0.3, 1.0, 1.5, 5.0]), "temperature")
    k = data.draw(st.integers(2, vocab), "k")
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]), "dtype")
    case = make_case(
        n=n, vocab=vocab, d=data.draw(st.integers(1, 20), "d"), k=k, bias=data.draw(st.booleans(), "bias"),
        dtype=dtype, temperature=temperature, seed=data.draw(st.integers(0, 1000), "seed"),
        **data.draw(st.sampled_from([{}, {"softcap": 3.0, "logit_scale": 0.5}]), "epilogue"))
    weights = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=n, max_size=n),
                                     "weights"), dtype=torch.float32)
    reduction = data.draw(st.sampled_from(["mean", "sum", "none"]), "reduction")
    layout = data.draw(st.sampled_from(["plain", "transposed", "sliced"]), "layout")
    strided = replace(case, hidden_ND=_lay_out(case.hidden_ND, layout),
                      weight_VD=_lay_out(case.weight_VD, layout))
    # upstream gradients of stride 0 are what .sum() sends
    upstream = torch.ones(()).expand(n if reduction == "none" else ())
    with pytest.MonkeyPatch.context() as patch:
        if data.draw(st.booleans(), "slices"):
            patch.setattr(torch_ops, "WEIGHT_SLICE_BYTES", 10 * 16 * 4)
            patch.setattr(torch_ops, "LOGIT_SLICE_BYTES", 7 * 97 * 4)
        strided.check(upstream=upstream, token_weights=weights, reduction=reduction)
        strided.check_select("torch", k, temperature)


def _lay_out(tensor, layout):
    if layout == "transposed":
        return tensor.T.contiguous().T
    if layout == "sliced":
        rows, columns = tensor.shape
        wide = torch.full((rows, columns + 3), float("nan"), dtype=tensor.dtype)
        wide[:, 1:-2] = tensor
        return wide[:, 1:-2]
    return tensor
