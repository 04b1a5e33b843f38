"""What the interpreter cannot show, on a GPU: bfloat16, compiled kernels, real sizes."""

import pytest
import torch
from raft_kernels import DIVERGENCES, topk_kl_loss, topk_targets

from benchmarks import head_gate, head_inputs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
SHAPES = {"small": (70, 1000, 128, 33), "wide": (300, 50_000, 576, 512), "most": (9, 70_000, 64, 2048)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_against_the_oracle(shape, dtype):
    """By the gate of the benchmarks: 3 times the error of dense logits in the same dtype is allowed."""
    n, vocab, d, k = SHAPES[shape]
    inputs = head_inputs.random_inputs(n, d, vocab, k, dtype, "cuda")
    assert head_gate.gate(inputs)["green"]

    def run():
        targets = topk_targets(inputs.teacher_ND, inputs.weight_VD, k)
        leaves = head_gate.leaves(inputs)
        loss = topk_kl_loss(*leaves, targets)
        return [targets.ids, targets.logprobs, loss.detach(), *head_gate.gradients(loss, *leaves)]

    assert all(map(torch.equal, run(), run()))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_waits_for_the_gpu(dtype, divergence, biased, frozen):
    """No operation of a whole step asks the device for a value."""
    hidden = torch.randn(128, 64, device="cuda", dtype=dtype, requires_grad=True)
    weight = torch.randn(999, 64, device="cuda", dtype=dtype, requires_grad=not frozen)
    head = {}
    if biased:
        head = {"bias": torch.randn(999, device="cuda", requires_grad=not frozen), "softcap": 5.0,
                "logit_scale": 0.5}
    weights = torch.ones(128, device="cuda")
    for mode in ("default", "error"):  # the first round compiles
        torch.cuda.set_sync_debug_mode(mode)
        try:
            targets = topk_targets(hidden, weight, 20, **head)
            topk_kl_loss(hidden, weight, targets, token_weights=weights, divergence=divergence,
                         **head).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_small_buffers_overflow(monkeypatch):
    """Several chunks, and rising logits that fill the candidates again and again; for the sanitizer too."""
    from raft_kernels import triton_select

    monkeypatch.setattr(triton_select, "BUFFER_BYTES", 70 * 2560 * 4)
    hidden, weight = torch.ones(70, 16, device="cuda"), torch.zeros(9000, 16, device="cuda")
    weight[:, 0] = torch.arange(9000, device="cuda") / 1000
    got = topk_targets(hidden, weight, 33, backend="triton")
    assert got.ids.tolist() == [list(range(8999, 8966, -1))] * 70
