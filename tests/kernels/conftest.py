"""Cases and tolerances shared by the kernel tests.

The oracle is always the float64 reference. What is allowed is 3 times the error that the dense
reference makes in the same working precision, plus the rounding of the result's own dtype and
of the probabilities (numbers up to 1, times T^2, whose differences loss and gradient are)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from raft_kernels import TopKTargets, topk_kl_loss, topk_targets
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """A student's head beside a teacher's targets."""

    hidden_ND: Tensor  # noqa: N815
    weight_VD: Tensor  # noqa: N815
    bias_V: Tensor | None  # noqa: N815
    targets: TopKTargets
    epilogue: dict[str, Any]

    def to(self, dtype: torch.dtype) -> "Case":
        bias = None if self.bias_V is None else self.bias_V.to(dtype)
        return replace(self, hidden_ND=self.hidden_ND.to(dtype),
                       weight_VD=self.weight_VD.to(dtype), bias_V=bias)

    def run(self, backend: str = "torch", upstream: Tensor | None = None, **options: Any
            ) -> list[Tensor]:
        """[loss, dHidden, dWeight(, dBias)] of one forward and backward."""
        leaves = [t.clone().requires_grad_() for t in (self.hidden_ND, self.weight_VD, self.bias_V)
                  if t is not None]
        bias = leaves[2] if len(leaves) == 3 else None
        loss = topk_kl_loss(leaves[0], leaves[1], self.targets, bias=bias, backend=backend,
                            **self.epilogue, **options)
        upstream = torch.ones_like(loss) if upstream is None else upstream.to(loss.dtype)
        return [loss.detach(), *torch.autograd.grad(loss, leaves, upstream)]

    def check(self, backend: str = "torch", **options: Any) -> list[Tensor]:
        """`run`, each result as close to the oracle's as the dense reference in float32 is."""
        got = self.run(backend, **options)
        oracle = self.to(torch.float64).run("reference", **options)
        usual = self.to(torch.float32).run("reference", **options)
        if self.weight_VD.dtype == torch.float64:  # float32's error, at float64's rounding
            usual = [right + (base - right) * 2.0**-29 for base, right in zip(usual, oracle, strict=True)]
        for one, right, base in zip(got, oracle, usual, strict=True):
            _assert_close(one, right, base, self.targets.temperature)
        return got

    def check_select(self, backend: str, k: int, temperature: float) -> TopKTargets:
        """The K best of this head: each log-prob is that of its id, and each id stands where it belongs, as
        close to the oracle as the dense reference in float32 is."""
        def run(of: Case, backend: str, k: int) -> TopKTargets:
            return topk_targets(of.hidden_ND, of.weight_VD, k, temperature, bias=of.bias_V, backend=backend,
                                **self.epilogue)

        got, again = run(self, backend, k), run(self, backend, k)
        every = [run(self.to(dtype), "reference", len(self.weight_VD))
                 for dtype in (torch.float64, torch.float32)]
        own = [one.logprobs.gather(-1, one.ids.argsort(-1)).gather(-1, got.ids) for one in every]
        best = [one.logprobs[:, :k] for one in every]
        for right, usual in (own, best):
            _assert_close(got.logprobs, right, usual)
        assert got.mass is not None
        _assert_close(got.mass, *(one.exp().sum(-1) for one in best))
        assert all(len(row.unique()) == k for row in got.ids)
        assert got.logprobs.dtype == torch.promote_types(self.weight_VD.dtype, torch.float32)
        assert torch.equal(got.ids, again.ids)
        assert torch.equal(got.logprobs, again.logprobs)
        return got


def _make_case(n: int = 24, vocab: int = 97, d: int = 16, k: int = 9, dtype: torch.dtype = torch.float32,
               bias: bool = False, temperature: float = 1.5, seed: int = 0, **epilogue: Any) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden_ND, weight_VD = normal(n, d).to(dtype), normal(vocab, d).to(dtype)
    bias_V = normal(vocab).to(dtype) if bias else None
    teacher_ND = hidden_ND.double() + 0.3 * normal(n, d)
    targets = topk_targets(teacher_ND, weight_VD.double(), k, temperature, backend="reference")
    targets = replace(targets, logprobs=targets.logprobs.float(), checked=True)
    return Case(hidden_ND, weight_VD, bias_V, targets, epilogue)


def _assert_close(got: Tensor, oracle: Tensor, baseline: Tensor, temperature: float = 1.5) -> None:
    oracle, baseline = oracle.double(), baseline.double()
    if not oracle.numel():
        assert got.shape == oracle.shape
        return
    working = torch.float64 if got.dtype == torch.float64 else torch.float32
    rounding = 2 * torch.finfo(got.dtype).eps * oracle.abs().max()
    rounding = rounding + 4 * torch.finfo(working).eps * max(1.0, temperature**2)
    allowed = 3 * (baseline - oracle).abs().max() + rounding
    worst = (got.double() - oracle).abs().max()
    assert worst <= allowed, f"error {worst:.3g} where {allowed:.3g} is allowed"


@pytest.fixture(scope="session")
def make_case() -> Callable[..., Case]:
    return _make_case
