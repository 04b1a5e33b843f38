"""The benchmark's gate turns red for each way of being wrong that a benchmark would reward."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks import head, head_inputs, head_rivals


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def inputs(request):
    return head_inputs.random_inputs(70, 16, 120, 8, request.param, "cpu")


def _green(inputs):
    return head._gate(inputs, rows=16)["green"]


def test_right_results_are_green(inputs):
    assert _green(inputs)


def _wrong(targets, how):
    ids, logprobs = targets.ids.clone(), targets.logprobs.clone()
    if how == "last row of zeros":
        logprobs[-1] = 0
    elif how == "first row of zeros":
        ids[0], logprobs[0] = torch.arange(8), 0
    elif how == "a repeated id":
        ids[32, 7] = ids[32, 6]
    elif how == "an id off by one":
        ids[-1, 3] = (ids[-1, 3] + 1) % 120
    else:
        ids, logprobs = ids.roll(1, 0), logprobs.roll(1, 0)
    return replace(targets, ids=ids, logprobs=logprobs, checked=True)


@pytest.mark.parametrize("how", ["last row of zeros", "first row of zeros", "a repeated id",
                                 "an id off by one", "rows of their neighbours"])
def test_a_wrong_select_is_red(inputs, how, monkeypatch):
    select = head_rivals.topk_targets
    monkeypatch.setattr(head_rivals, "topk_targets", lambda *a: _wrong(select(*a), how))
    assert not _green(inputs)


class _Damaged(torch.autograd.Function):
    """The same tensor; its gradient without the rows from `first` on."""

    @staticmethod
    def forward(ctx, tensor: Tensor, first: int) -> Tensor:
        ctx.first = first
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        return torch.cat([grads[0][: ctx.first], torch.zeros_like(grads[0][ctx.first :])]), None


@pytest.mark.parametrize("first", [69, 48])
def test_a_gradient_without_its_tail_is_red(inputs, first, monkeypatch):
    loss = head_rivals.topk_kl_loss
    monkeypatch.setattr(head_rivals, "topk_kl_loss",
                        lambda h, w, t: loss(_Damaged.apply(h, first), w, t))
    assert not _green(inputs)


def test_a_loss_without_its_tail_is_red(inputs, monkeypatch):
    loss = head_rivals.topk_kl_loss
    monkeypatch.setattr(head_rivals, "topk_kl_loss",
                        lambda h, w, t: loss(h[:60], w, t[:60], reduction="sum") / 70)
    assert not _green(inputs)


def test_a_scaled_weight_gradient_is_red(inputs, monkeypatch):
    loss = head_rivals.topk_kl_loss
    monkeypatch.setattr(head_rivals, "topk_kl_loss",
                        lambda h, w, t: loss(h, w * 0.5 + w.detach() * 0.5, t))
    assert not _green(inputs)
