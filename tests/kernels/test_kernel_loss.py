"""topk_kl_loss against the float64 reference, and what its arguments promise."""

import math

import pytest
import torch
from raft_kernels import TopKTargets, ops, topk_kl_loss, topk_kl_loss_from_logits, topk_targets, torch_ops
from torch.utils.checkpoint import checkpoint


def test_worked_numbers_of_the_paper():
    """Teacher .50 .30 .10 renormalise to .5556 .3333 .1111; student .20 .20 .10 to .4 .4 .2."""
    ids = torch.tensor([[4, 0, 2]])
    targets = TopKTargets.from_logprobs(ids, torch.tensor([[0.5, 0.3, 0.1]]).log(), 1.0, 1.0)
    student = torch.full((1, 6), 1e-9)
    student[0, ids[0]] = torch.tensor([0.2, 0.2, 0.1])
    by_hand = 5 / 9 * math.log(5 / 9 / 0.4) + 3 / 9 * math.log(3 / 9 / 0.4) + 1 / 9 * math.log(1 / 9 / 0.2)
    assert topk_kl_loss(student.log(), torch.eye(6), targets).item() == pytest.approx(by_hand, rel=1e-5)
    assert topk_kl_loss_from_logits(student.log(), targets).item() == pytest.approx(by_hand, rel=1e-5)
    assert targets.mass.item() == pytest.approx(0.9, rel=1e-6)


def test_reductions_and_weights(make_case):
    case = make_case(n=6, dtype=torch.float64)
    weights = torch.tensor([1.0, 0.0, 0.5, 2.0, 0.0, 3.0], dtype=torch.float64)

    def value(**options):
        return case.run("torch", **options)[0]

    rows = value(reduction="none")
    assert rows.shape == (6,)
    weighted = rows * weights
    for got, right in (
        (value(reduction="sum"), rows.sum()),
        (value(), rows.mean()),
        (value(reduction="none", token_weights=weights), weighted),
        (value(reduction="sum", token_weights=weights), weighted.sum()),
        (value(token_weights=weights), weighted.sum() / weights.sum()),
        (value(token_weights=weights != 0), rows[weights != 0].mean()),
        # Eq. 10: the mean over the tokens of each trajectory (2, 3 and 1 of them), then over trajectories
        (value(reduction="sum", token_weights=1 / (3 * torch.tensor([2, 2, 3, 3, 3, 1]).double())),
         torch.stack([one.mean() for one in rows.split([2, 3, 1])]).mean()),
    ):
        torch.testing.assert_close(got, right)


def test_only_what_needs_a_gradient_gets_one(make_case, monkeypatch):
    case = make_case()
    whole = case.run("torch")
    hidden, weight = (tensor.clone().requires_grad_() for tensor in (case.hidden_ND, case.weight_VD))
    topk_kl_loss(case.hidden_ND, weight, case.targets).backward()
    torch.testing.assert_close(weight.grad, whole[2])
    monkeypatch.setattr(torch_ops, "_grad_weight", lambda *_: pytest.fail("a frozen weight has no gradient"))
    topk_kl_loss(hidden, case.weight_VD, case.targets).backward()
    torch.testing.assert_close(hidden.grad, whole[1])


def test_twice_over_bit_for_bit(make_case):
    """Runs on two threads, two backward passes of one run, and one under gradient checkpointing. Above 32768
    entries PyTorch's own bias[ids] adds its gradient with atomics."""
    case, threads = make_case(n=1024, vocab=700, d=8, k=256, bias=True), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, *others = (case.run("torch") for _ in range(8))
    finally:
        torch.set_num_threads(threads)
    assert all(all(map(torch.equal, first, other)) for other in others)
    case = make_case(n=200, vocab=500, d=32, k=40)
    first = case.run("torch")
    hidden = case.hidden_ND.clone().requires_grad_()
    head = (hidden, case.weight_VD, case.targets)
    loss = topk_kl_loss(*head)
    for _ in range(2):
        assert torch.equal(torch.autograd.grad(loss, hidden, retain_graph=True)[0], first[1])
    again = checkpoint(topk_kl_loss, *head, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(again, hidden)[0], first[1])


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_autocast_leaves_the_precision_alone(make_case, backend):
    case = make_case(n=64)

    def run():
        targets = topk_targets(case.hidden_ND, case.weight_VD, 9, backend=backend)
        # the reference's backward pass is PyTorch's own, and does what autocast says
        return [targets.logprobs, *case.run(backend)[: None if backend == "torch" else 1]]

    right = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(map(torch.equal, run(), right))


@pytest.mark.parametrize("leaf", [0, 1, 2, None])
def test_second_derivatives_raise(make_case, leaf):
    """A gradient of the gradient would be wrong, not just missing, so it is refused."""
    case, logits = make_case(n=4, bias=True), torch.randn(4, 97)
    of = logits if leaf is None else (case.hidden_ND, case.weight_VD, case.bias_V)[leaf]
    of.requires_grad_()
    loss = (topk_kl_loss_from_logits(logits, case.targets) if leaf is None else
            topk_kl_loss(case.hidden_ND, case.weight_VD, case.targets, bias=case.bias_V))
    (gradient,) = torch.autograd.grad(loss, of, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.square().sum(), of)


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


def test_compiles_without_graph_breaks(make_case):
    """Targets, loss and backward in one graph; the same numbers as without."""
    case = make_case(n=12, vocab=80)
    teacher_ND, weights = case.hidden_ND + 1, torch.rand(12)

    def step(hidden, weight):
        targets = topk_targets(teacher_ND, weight, 9)
        logits = hidden @ weight.T
        return (topk_kl_loss(hidden, weight, targets, token_weights=weights, softcap=5.0)
                + topk_kl_loss(hidden, weight, targets, divergence="jsd", beta=0.3)
                + topk_kl_loss_from_logits(logits, targets, reduction="sum"))

    def run(function):
        leaves = [t.clone().requires_grad_() for t in (case.hidden_ND, case.weight_VD)]
        loss = function(*leaves)
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for one, other in zip(run(compiled), run(step), strict=True):
        torch.testing.assert_close(one, other)


def test_custom_operators_are_well_formed(make_case):
    """Schema, fake tensors and autograd registration, by PyTorch's own check."""
    case = make_case(n=4, vocab=20, d=8, k=3)
    ids, active = case.targets.ids, torch.tensor([True, False, True, True])
    head = (case.hidden_ND.clone(), case.weight_VD.clone())
    torch.library.opcheck(ops.sampled_logits, (
        case.hidden_ND.requires_grad_(), case.weight_VD.requires_grad_(), ids, active, "torch"))
    torch.library.opcheck(ops.select, (*head, None, 3, 1.5, 1.0, None, "torch"))
    for needs in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(ops.sampled_backward, (torch.randn(4, 3), *head, ids, active, *needs, "torch"))
