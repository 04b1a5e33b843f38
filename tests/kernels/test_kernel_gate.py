"""The benchmark's gate turns red for each way of being wrong that a benchmark would reward."""

import argparse
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from raft_kernels import triton_hot, triton_tiles
from torch import Tensor
from triton.runtime.errors import OutOfResources

from benchmarks import head, head_gate, head_inputs, measure, scaling, tune_tiles


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def inputs(request):
    return head_inputs.random_inputs(70, 16, 120, 8, request.param, "cpu")


def _green(inputs):
    return head_gate.gate(inputs, rows=16)["green"]


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
    elif how == "all NaN":
        logprobs[:] = torch.nan
    elif how == "one row NaN":
        logprobs[3] = torch.nan
    else:
        ids, logprobs = ids.roll(1, 0), logprobs.roll(1, 0)
    return replace(targets, ids=ids, logprobs=logprobs, checked=True)


def _wrong_select(monkeypatch, how="a repeated id"):
    select = head_gate.topk_targets
    monkeypatch.setattr(head_gate, "topk_targets", lambda *a, **o: _wrong(select(*a, **o), how))


@pytest.mark.parametrize("how", ["last row of zeros", "first row of zeros", "a repeated id",
                                 "an id off by one", "all NaN", "one row NaN", "rows of their neighbours"])
def test_a_wrong_select_is_red(inputs, how, monkeypatch):
    _wrong_select(monkeypatch, how)
    assert not _green(inputs)


def test_ids_from_beyond_the_cut_are_red(monkeypatch):
    """Ranks 513 to 520 in the place of the last 8: their logits differ by less than bfloat16 shows."""
    inputs = head_inputs.random_inputs(64, 64, 8000, 512, torch.bfloat16, "cpu")
    assert _green(inputs)
    select = head_gate.topk_targets

    def beyond(hidden, weight, k, t, **options):
        more = select(hidden, weight, k + 8, t, **options)
        kept = torch.cat([torch.arange(k - 8), torch.arange(k, k + 8)])
        return replace(more, ids=more.ids[:, kept], logprobs=more.logprobs[:, kept], checked=True)

    monkeypatch.setattr(head_gate, "topk_targets", beyond)
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


LOSS = head_gate.topk_kl_loss
WRONG_LOSSES = {
    "a gradient without its last row": lambda h, w, t: LOSS(_Damaged.apply(h, 69), w, t),
    "a gradient without its last tile": lambda h, w, t: LOSS(_Damaged.apply(h, 48), w, t),
    # it is timed, so it is judged
    "only the frozen one": lambda h, w, t: LOSS(h if w.requires_grad else _Damaged.apply(h, 60), w, t),
    "a loss without its tail": lambda h, w, t: LOSS(h[:60], w, t[:60], reduction="sum") / 70,
    "a scaled weight gradient": lambda h, w, t: LOSS(h, w * 0.5 + w.detach() * 0.5, t),
}


@pytest.mark.parametrize("how", WRONG_LOSSES)
def test_a_wrong_loss_is_red(inputs, how, monkeypatch):
    monkeypatch.setattr(head_gate, "topk_kl_loss", lambda *head, **_: WRONG_LOSSES[how](*head))
    assert not _green(inputs)


@pytest.mark.parametrize("program", [head, scaling])
def test_a_red_gate_prints_no_speed(program, monkeypatch, capsys, tmp_path):
    """The whole program, with a select that repeats an id: it ends before anything is timed."""
    _wrong_select(monkeypatch)
    monkeypatch.setattr(measure, "results_folder", lambda device: tmp_path)
    monkeypatch.setattr("sys.argv", ["it", "--d", "8"])
    monkeypatch.setattr(head_inputs, "random_inputs", lambda *a, make=head_inputs.random_inputs:
                        make(40, 8, 99, 8, torch.float32, "cpu"))
    with pytest.raises(SystemExit, match="the gate is red"):
        program.main()
    assert "ms" not in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_choice_of_tiles_that_is_red_prints_no_speed(inputs, monkeypatch):
    """Any choice that does not give the oracle's results has no time beside its name."""
    arguments = argparse.Namespace(repeats=1, device="cpu")
    monkeypatch.setattr(tune_tiles, "_times", lambda *_: {"logits_ms": 1.0})
    assert "logits_ms" in tune_tiles._judged_and_timed(inputs, ("logits",), arguments)
    _wrong_select(monkeypatch)
    row = tune_tiles._judged_and_timed(inputs, ("logits",), arguments)
    assert row["green"] is False
    assert "logits_ms" not in row


def _tuned(monkeypatch, tmp_path, gate):
    """The exit code of the tuner with that gate; nothing is timed."""
    monkeypatch.setattr(measure, "results_folder", lambda device: tmp_path)
    monkeypatch.setattr(tune_tiles, "_times", lambda *_: {"logits_ms": 1.0})
    monkeypatch.setattr(tune_tiles.head_gate, "gate", gate)
    monkeypatch.setattr("sys.argv", ["it", "--device", "cpu", "--dtype", "float16", "--n", "64",
                                     "--d", "16", "--v", "200", "--k", "6"])
    with pytest.raises(SystemExit) as end:
        tune_tiles.main()
    return end.value.code


def _too_large(_):
    raise OutOfResources(300_000, 232_448, "shared memory")


def test_a_tuner_whose_every_choice_crashes_is_red(monkeypatch, tmp_path):
    def crash(_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        _tuned(monkeypatch, tmp_path, crash)
    assert _tuned(monkeypatch, tmp_path, _too_large) == 1
    assert _tuned(monkeypatch, tmp_path, lambda _: {"green": True}) == 0
    shipped = triton_tiles.TILE
    assert _tuned(monkeypatch, tmp_path, lambda inputs: {"green": True} if (
        shipped == triton_tiles.TILE) else _too_large(inputs)) == 0
    assert _tuned(monkeypatch, tmp_path, lambda _: {"green": False}) == 1


def test_the_tuner_judges_the_tokens_it_times_and_tries_what_is_shipped(monkeypatch, tmp_path):
    tokens = []
    monkeypatch.setattr(tune_tiles, "_inputs", lambda args, n: n)
    _tuned(monkeypatch, tmp_path, lambda n: tokens.append(n) or {"green": True})
    assert set(tokens) == {64}
    assert {operations for choice, operations in tune_tiles.choices()
            if tune_tiles.is_shipped(choice)} == {("logits", "dhidden"), ("dweight",)}
    tried = tune_tiles.HOT["triton_hot.HOT"]
    columns = []
    for hot in tried:
        with tune_tiles.chosen({"triton_hot.HOT": hot}):
            columns.append(triton_hot.columns(128256, 512))
    assert len(set(columns)) == len(tried)


def test_a_choice_of_tiles_is_undone():
    before = triton_tiles.TILE
    with tune_tiles.chosen({"triton_tiles.TILE": 128}):
        assert triton_tiles.TILE == 128
    assert before == triton_tiles.TILE


def test_a_run_that_would_not_end_is_refused(monkeypatch, tmp_path):
    """bfloat16 on a CPU without units for it: one line says how long, and what to do."""
    monkeypatch.setattr(measure, "results_folder", lambda device: tmp_path)
    monkeypatch.setattr("sys.argv", ["head", "--n", "40", "--d", "8", "--v", "99", "--k", "8",
                                     "--dtype", "bfloat16", "--patience", "0"])
    with pytest.raises(SystemExit, match=r"^error: bfloat16 products run at .* --dtype float32"):
        head.main()


def test_a_visit_without_a_model_says_so(monkeypatch):
    monkeypatch.delenv("MODEL", raising=False)
    monkeypatch.setenv("DRY", "16")
    visit = Path(head_gate.__file__).with_name("gpu_visit.sh")
    run = subprocess.run(["bash", visit, "real"], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert "real needs MODEL: skipped" in run.stdout
