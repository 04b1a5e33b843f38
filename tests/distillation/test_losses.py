"""The SFT loss for heads of every kind, against dense logits in float64."""

import pytest
import torch

from raft_fast.distillation.losses import sft_loss
from raft_fast.head import Head


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
