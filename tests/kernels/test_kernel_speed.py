"""pytest-benchmark entries for small shapes: `pytest tests/kernels --benchmark-enable -k speed`."""

import torch
from raft_kernels import topk_kl_loss, topk_targets


def _head(n=64, vocab=4096, d=128):
    torch.manual_seed(0)
    return torch.randn(n, d), torch.randn(vocab, d)


def test_select_speed(benchmark):
    hidden, weight = _head()
    assert benchmark(topk_targets, hidden, weight, 64).k == 64


def test_loss_speed(benchmark):
    hidden, weight = (t.requires_grad_() for t in _head())
    targets = topk_targets(hidden + 1, weight, 64)

    def both():
        return torch.autograd.grad(topk_kl_loss(hidden, weight, targets), [hidden, weight])

    assert all(gradient.isfinite().all() for gradient in benchmark(both))
