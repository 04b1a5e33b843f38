"""The Triton kernels against the oracle; run by test_kernel_processes.py.

float32 and float16: the interpreter's bfloat16 products are not to be trusted."""

from dataclasses import replace

import pytest
import torch
from raft_kernels import (
    DIVERGENCES,
    TopKTargets,
    topk_targets,
    triton_hot,
    triton_sampled,
    triton_select,
    triton_tiles,
)

INF, NAN = float("inf"), float("nan")


@pytest.fixture(autouse=True)
def _small_blocks_and_poison(monkeypatch):
    """Tiles small enough that every loop turns; uninitialised memory full of NaN."""
    monkeypatch.setattr(triton_select, "BLOCK", 16)
    monkeypatch.setattr(triton_select, "TOKENS", 3)
    monkeypatch.setattr(triton_select, "BUFFER_BYTES", 3 * 40 * 4)
    monkeypatch.setattr(triton_sampled, "BLOCK_K", 8)
    monkeypatch.setattr(triton_tiles, "BLOCK_U", 16)
    monkeypatch.setattr(triton_tiles, "BLOCK_D", 16)
    monkeypatch.setattr(triton_sampled, "BLOCK_D", 16)
    torch.use_deterministic_algorithms(True)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    yield
    torch.use_deterministic_algorithms(False)


def _logits_head(logits):
    """hidden and weight whose product is exactly `logits`."""
    return torch.eye(logits.shape[0]), logits.T.contiguous()


@pytest.mark.parametrize(("n", "vocab", "k", "dtype", "epilogue"), [
    (1, 2, 2, torch.float32, {"softcap": 3.0, "logit_scale": 0.5}),
    (4, 15, 3, torch.float16, {}), (4, 16, 16, torch.float32, {}),
    (4, 17, 17, torch.float16, {"softcap": 3.0}),
    (4, 97, 9, torch.float32, {"softcap": 3.0, "logit_scale": 0.5}), (2, 201, 40, torch.float16, {}),
])
def test_select(make_case, n, vocab, k, dtype, epilogue):
    case = make_case(n=n, vocab=vocab, d=12, k=2, dtype=dtype, bias=bool(epilogue), **epilogue)
    case.check_select("triton", k, 0.8)


@pytest.mark.parametrize("k", [2, 13, 100])
def test_select_is_exact_whatever_the_order(k):
    """Ascending logits beat every threshold: the candidates overflow again and again."""
    rising = torch.arange(100).float()
    logits = torch.stack([
        rising, -rising, torch.zeros(100), rising % 3, torch.where(rising % 2 == 0, 0.0, -0.0)])
    got = topk_targets(*_logits_head(logits), k, backend="triton")
    right = topk_targets(*_logits_head(logits), k, backend="reference")
    assert torch.equal(got.ids, right.ids)
    torch.testing.assert_close(got.logprobs, right.logprobs)


def test_select_on_rows_that_are_not_finite():
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 8), torch.randn(60, 8)
    bias = torch.zeros(60)
    bias[5:50] = -INF
    clean = topk_targets(hidden[:1], weight, 6, bias=bias, backend="triton")
    hidden[1, 0], hidden[2, 0], hidden[3] = NAN, INF, -INF
    got = topk_targets(hidden, weight, 6, bias=bias, backend="triton")
    assert torch.equal(got.ids[:1], clean.ids)
    assert not ((got.ids[0] >= 5) & (got.ids[0] < 50)).any()
    for row in (1, 2, 3):
        assert not got.logprobs[row].isfinite().all()
        assert len(got.ids[row].unique()) == 6
    assert got.logprobs[4:].isfinite().all()
    nothing = topk_targets(hidden, weight, 6, bias=torch.full((60,), -INF), backend="triton")
    assert nothing.logprobs.isnan().all()
    assert nothing.ids[4].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("shape", [(5, 23, 7, 5), (4, 40, 33, 17), (1, 9, 16, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_loss_and_gradients(make_case, shape, dtype):
    case = make_case(*shape, dtype=dtype, bias=True, softcap=4.0)
    weights = torch.tensor([1.0, 0.0, 0.5] * 3)[: shape[0]]
    got = case.check("triton", token_weights=weights)
    assert all(map(torch.equal, got, case.run("triton", token_weights=weights)))


def test_loss_on_strided_and_mixed_inputs(make_case):
    case = make_case(n=6, vocab=30, d=8, k=5)
    weight = torch.full((8, 61), NAN)[:, ::2][:, :30].T.copy_(case.weight_VD)
    strided = replace(case, hidden_ND=case.hidden_ND.T.contiguous().T, weight_VD=weight)
    for divergence in DIVERGENCES:
        strided.check("triton", divergence=divergence, beta=0.3)
    half = replace(case, weight_VD=case.weight_VD.half())
    assert [t.dtype for t in half.check("triton")] == [torch.float32, torch.float32, torch.float16]


@pytest.mark.parametrize(("n", "d", "dense_bytes", "hot"), [
    (64, 16, 1, 5), (70, 48, 1, 0), (130, 16, 1, 40), (130, 16, 1 << 20, 5), (192, 16, 1 << 20, 99),
])
def test_tiles_of_neighbouring_tokens(make_case, n, d, dense_bytes, hot, monkeypatch):
    """Half precision in one chunk and in several, with some hot columns, none and all.

    Allowed in each row: 3 times the error of the gathers in float32, and one rounding to half
    precision of its own size. NaN of dropped tokens, and of a column that they alone name, reaches nobody."""
    monkeypatch.setattr(triton_tiles, "DENSE_BYTES", dense_bytes)
    monkeypatch.setattr(triton_hot, "DENSE_BYTES", 64 * dense_bytes * 4)
    monkeypatch.setattr(triton_hot, "HOT", hot)
    case = make_case(n=n, vocab=80, d=d, k=6, dtype=torch.float16)
    weights = torch.ones(n)
    weights[3:9], weights[64:128] = 0, 0  # some of a tile, and all of one
    ids = case.targets.ids.clone()
    ids[5, 2] = 80
    targets = TopKTargets(ids, case.targets.logprobs, 1.5, vocab_size=81)
    clean = replace(case, weight_VD=torch.cat([case.weight_VD, torch.zeros(1, d).half()]), targets=targets)
    case = replace(clean, hidden_ND=torch.where(weights[:, None] == 0, NAN, case.hidden_ND),
                   weight_VD=torch.cat([case.weight_VD, torch.full((1, d), NAN).half()]))
    oracle = clean.to(torch.float64).run("reference", token_weights=weights)
    got = case.run("triton", token_weights=weights)
    usual = clean.run("torch", token_weights=weights)
    assert (got[0].double() - oracle[0]).abs() <= 1e-5 * oracle[0]
    for one, right, base in zip(got[1:], oracle[1:], usual[1:], strict=True):
        assert _row_errors(one, right) <= 3 * _row_errors(base, right) + 2**-10
    assert (got[1][weights == 0] == 0).all()
    assert all((result == 0).all() for result in case.run("triton", token_weights=torch.zeros(n)))


@pytest.mark.parametrize("hot", [0, 16, 48])
def test_gradients_too_small_for_float16(hot, monkeypatch):
    """A mean over 8192 tokens makes gradients of 1e-7: half precision holds them at a scale only.

    They are powers of two, exact once scaled by their largest, so what is left is one rounding of the
    result; without a scale most of them would be 0."""
    monkeypatch.setattr(triton_hot, "HOT", hot)
    torch.manual_seed(0)
    n, vocab, k = 192, 80, 6
    hidden, weight = (4096 * torch.randn(rows, 16).half() for rows in (n, vocab))
    ids = torch.rand(n, vocab).mul(torch.rand(vocab)).topk(k).indices
    grad = (torch.randint(0, 2, (n, k)) * 2 - 1) * 2.0 ** torch.randint(-30, -24, (n, k))
    dense = torch.zeros(n, vocab).scatter_(1, ids, grad).double()
    got = triton_sampled.sampled_backward(grad, hidden, weight, ids, None, True, True)
    for one, right in zip(got, (dense @ weight.double(), dense.T @ hidden.double()), strict=True):
        assert _row_errors(one, right) <= 2**-10


def _row_errors(got, right):
    """The worst row's error, relative to that row's largest value (float16's smallest step aside)."""
    off_N = (got.double() - right).abs().amax(-1)
    return ((off_N - 2**-24).clamp_min(0) / right.abs().amax(-1).clamp_min(1e-12)).max()
