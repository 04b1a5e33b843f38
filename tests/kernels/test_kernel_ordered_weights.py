"""Products with weights in oneDNN's order."""

from contextlib import suppress

import pytest
import torch
from raft_kernels import ordered_weights


def layers(dtype):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(48, 80), torch.nn.Linear(80, 300, bias=False)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rows", [1, 5, 64])
@torch.no_grad()
def test_products_are_as_exact_as_those_of_torch(dtype, rows):
    batch, model = torch.randn(2, rows, 48, dtype=torch.float64), layers(dtype)
    exact, plain = layers(dtype).double()(batch), model(batch.to(dtype))
    with suppress(ZeroDivisionError), ordered_weights(model, rows):
        ordered, found = "forward" in vars(model[0]), model(batch.to(dtype))
        _ = 1 / 0
    wrong, usual = ((one.double() - exact).abs().max() for one in (found, plain))
    assert wrong <= 2 * usual + 1e-7
    bf16 = {torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set()
    assert ordered == (dtype in {torch.float32, *bf16})
    assert torch.equal(model(batch.to(dtype)), plain)  # an error leaves the layers as they were
