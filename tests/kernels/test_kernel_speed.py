"""Selection and loss timed beside dense logits: pytest tests/kernels/test_kernel_speed.py --benchmark-enable.

Times are shown and never asserted; that both compute the same is."""

import pytest
import torch
from raft_kernels import topk_targets


@pytest.mark.parametrize("dense", [False, True], ids=["ours", "dense"])
def test_select_speed(benchmark, make_case, dense):
    def usual(hidden_ND, weight_VD, k):
        logits_NV = hidden_ND @ weight_VD.T / 1.5
        return logits_NV.log_softmax(-1).topk(k)

    case = make_case(64, 4096, 128, 64)
    head = case.hidden_ND, case.weight_VD, 64
    right = topk_targets(*head, backend="reference")
    found = benchmark(usual if dense else topk_targets, *head)
    torch.testing.assert_close(found.values if dense else found.logprobs, right.logprobs)


@pytest.mark.parametrize("dense", [False, True], ids=["ours", "dense"])
def test_loss_speed(benchmark, make_case, dense):
    case = make_case(64, 4096, 128, 64)

    backend = "reference" if dense else "torch"
    oracle = case.to(torch.float64).run("reference")
    for found, right in zip(benchmark(case.run, backend), oracle, strict=True):
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-5)
