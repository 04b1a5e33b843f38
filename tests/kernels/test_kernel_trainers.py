"""Inside other people's trainers: torch.compile, and nothing that waits for a GPU."""

import pytest
import torch
from raft_kernels import DIVERGENCES, topk_kl_loss, topk_kl_loss_from_logits, topk_targets
from raft_kernels.divergence import TokenDivergence
from torch.utils._python_dispatch import TorchDispatchMode


class _NothingWaits(TorchDispatchMode):
    """Refuses what would wait for a GPU: reading a value, and making a tensor of a number."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        assert func.overloadpacket not in (aten._local_scalar_dense, aten.nonzero, aten.lift_fresh)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_no_divergence_waits_for_a_gpu(divergence, softcap):
    logits, weights = torch.randn(3, 4, requires_grad=True), torch.ones(3)
    with _NothingWaits():
        rows = TokenDivergence.apply(
            logits, logits.detach(), weights, 1.5, 0.5, softcap, divergence, 0.3)
        rows.sum().backward()
    assert logits.grad.shape == (3, 4)


def test_compiles_without_graph_breaks(make_case):
    """Targets, loss and backward in one graph; the same numbers as without."""
    case = make_case(n=12, vocab=80, d=16, k=9)
    teacher_ND = case.hidden_ND + 1

    def step(hidden, weight, token_weights):
        targets = topk_targets(teacher_ND, weight, 9)
        logits = hidden @ weight.T
        return (topk_kl_loss(hidden, weight, targets, token_weights=token_weights, softcap=5.0)
                + topk_kl_loss(hidden, weight, targets, divergence="jsd", beta=0.3)
                + topk_kl_loss_from_logits(logits, targets, reduction="sum"))

    def run(function):
        leaves = [t.clone().requires_grad_() for t in (case.hidden_ND, case.weight_VD)]
        loss = function(*leaves, torch.rand(12, generator=torch.Generator().manual_seed(0)))
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for one, other in zip(run(compiled), run(step), strict=True):
        torch.testing.assert_close(one, other)


def test_custom_operators_are_well_formed(make_case):
    """Schema, fake tensors and autograd registration, by PyTorch's own check."""
    from raft_kernels import ops

    case = make_case(n=4, vocab=20, d=8, k=3)
    hidden, weight = case.hidden_ND.requires_grad_(), case.weight_VD.requires_grad_()
    active = torch.tensor([True, False, True, True])
    torch.library.opcheck(ops.sampled_logits, (hidden, weight, case.targets.ids, active, "torch"))
    torch.library.opcheck(
        ops.select, (hidden.detach(), weight.detach(), None, 3, 1.5, 1.0, None, "torch"))
    for needs in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(ops.sampled_backward, (
            torch.randn(4, 3), hidden.detach(), weight.detach(), case.targets.ids, active, *needs,
            "torch"))
