"""The benchmark's gate turns red for each way of being wrong that a benchmark would reward."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks import head, head_gate, head_inputs, measure


def _inputs(dtype=torch.float32, n=70):
    return head_inputs.random_inputs(n, 16, 120, 8, dtype, "cpu")


def _wrong_select(monkeypatch, how):
    """`how` changes a select's ids and log-probs in place."""
    select = head_gate.topk_targets

    def wrong(*given, **options):
        targets = select(*given, **options)
        ids, logprobs = targets.ids.clone(), targets.logprobs.clone()
        how(ids, logprobs)
        return replace(targets, ids=ids, logprobs=logprobs, checked=True)

    monkeypatch.setattr(head_gate, "topk_targets", wrong)


WRONG_SELECTS = {
    "a last row of zeros": lambda ids, logprobs: logprobs[-1].zero_(),
    "a repeated id": lambda ids, logprobs: ids[32, 7].copy_(ids[32, 6]),
    "an id off by one": lambda ids, logprobs: ids[-1, 3].copy_((ids[-1, 3] + 1) % 120),
    "one row of NaN": lambda ids, logprobs: logprobs[3].fill_(torch.nan),
    "rows of their neighbours": lambda ids, logprobs: (ids.copy_(ids.roll(1, 0)),
                                                       logprobs.copy_(logprobs.roll(1, 0))),
}


class _Damaged(torch.autograd.Function):
    """The same tensor; its gradient without the rows from `first` on."""

    @staticmethod
    def forward(ctx, tensor: Tensor, first: int) -> Tensor:
        ctx.first = first
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        return torch.cat([grads[0][: ctx.first], torch.zeros_like(grads[0][ctx.first :])]), None


LOSS = head_gate.topk_kl_loss
WRONG_LOSSES = {
    "a gradient without its last row": lambda h, w, t: LOSS(_Damaged.apply(h, 69), w, t),
    # it is timed, so it is judged
    "only the frozen one": lambda h, w, t: LOSS(h if w.requires_grad else _Damaged.apply(h, 60), w, t),
    "a loss without its tail": lambda h, w, t: LOSS(h[:60], w, t[:60], reduction="sum") / 70,
    "a scaled weight gradient": lambda h, w, t: LOSS(h, w * 0.5 + w.detach() * 0.5, t),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", [*WRONG_SELECTS, *WRONG_LOSSES])
def test_what_is_wrong_is_red(dtype, how, monkeypatch):
    inputs = _inputs(dtype)
    assert head_gate.gate(inputs, rows=16)["green"]
    if how in WRONG_SELECTS:
        _wrong_select(monkeypatch, WRONG_SELECTS[how])
    else:
        monkeypatch.setattr(head_gate, "topk_kl_loss", lambda *head, **_: WRONG_LOSSES[how](*head))
    assert not head_gate.gate(inputs, rows=16)["green"]


def test_a_red_gate_prints_no_speed(monkeypatch, capsys, tmp_path):
    """The whole program, with a select that repeats an id: it ends before anything is timed."""
    _wrong_select(monkeypatch, WRONG_SELECTS["a repeated id"])
    monkeypatch.setattr(measure, "results_folder", lambda device: tmp_path)
    monkeypatch.setattr("sys.argv", ["it", "--d", "8"])
    wrong = _inputs(n=40)
    monkeypatch.setattr(head_inputs, "random_inputs", lambda *_: wrong)
    with pytest.raises(SystemExit, match="the gate is red"):
        head.main()
    assert "ms" not in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
