"""Cases and tolerances shared by the kernel tests.

The oracle is always the float64 reference. What is allowed is 3 times the error that the dense
reference makes in the same working precision, plus the rounding of the result's own dtype and
of the probabilities (numbers up to 1, times T^2, whose differences loss and gradient are).
"""

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

    def double(self) -> "Case":
        return self.to(torch.float64)

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
        oracle = self.double().run("reference", **options)
        usual = self.to(torch.float32).run("reference", **options)
        if self.weight_VD.dtype == torch.float64:  # float32's error, at float64's rounding
            usual = [right + (base - right) * 2.0**-29 for base, right in zip(usual, oracle, strict=True)]
        for one, right, base in zip(got, oracle, usual, strict=True):
            _assert_close(one, right, base, self.targets.temperature)
        return got


def _make_case(
    n: int = 24, vocab: int = 97, d: int = 16, k: int = 9, dtype: torch.dtype = torch.float32,
    bias: bool = False, temperature: float = 1.5, seed: int = 0, **epilogue: Any,
) -> Case:
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


def _assert_selected(got: TopKTargets, hidden_ND: Tensor, weight_VD: Tensor) -> None:
    """Each log-prob is that of its own id, and each id stands where it belongs, in float64.

    Select makes float32 logits whatever the inputs; tensor cores add a little to their error.
    """
    def logprobs(dtype: torch.dtype) -> Tensor:
        logits_NV = hidden_ND.to(dtype) @ weight_VD.to(dtype).T
        return torch.log_softmax(logits_NV / got.temperature, -1)

    oracle_NV = logprobs(torch.float64)
    own_NK, right_NK = oracle_NV.gather(-1, got.ids), oracle_NV.topk(got.k).values
    floor = 16 * torch.finfo(torch.float32).eps * right_NK.abs().max()
    if hidden_ND.dtype.itemsize == 2:
        floor = floor + 1e-4
    allowed = 3 * (logprobs(torch.float32).gather(-1, got.ids) - own_NK).abs().max() + floor
    ordered_NK = got.ids.sort(-1).values
    assert (ordered_NK[:, 1:] != ordered_NK[:, :-1]).all(), "an id is repeated in a row"
    assert (got.logprobs - own_NK).abs().max() <= allowed, "a log-prob is not that of its id"
    assert (own_NK - right_NK).abs().max() <= allowed, "an id is not among the K best"


@pytest.fixture(scope="session")
def assert_selected() -> Callable[..., None]:
    return _assert_selected


@pytest.fixture(scope="session")
def make_case() -> Callable[..., Case]:
    return _make_case


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    return _assert_close
