"""Cross-entropy of hidden states under an output head; logits of a few rows are alive at once."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint


def logit_rows(device: torch.device) -> int:
    """Rows of logits alive at once. The library's own choice is several times slower on CPUs; a GPU is idle
    over few rows."""
    return 256 if device.type == "cpu" else 2048


def cross_entropy_sum(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Sum of -log softmax(logits)[target] in nats, a float32 scalar with gradients.

    hidden: [N, D]. weight: [V, D] and bias: [V], in the dtype of hidden or wider (a student's weights are
    float32, its states bf16 in mixed precision). targets: int64 [N].
    logits = softcap * tanh((hidden @ weight.T + bias) * logit_scale / softcap)."""
    if bias is None and logit_scale == 1.0 and softcap is None:
        if hidden.dtype == torch.bfloat16 and hidden.device.type == "cpu":
            total: Tensor = _HalfProducts.apply(hidden, weight, targets)
            return total
        if hasattr(F, "linear_cross_entropy"):
            options = torch.nn.LinearCrossEntropyOptions(
                batch_chunk_size=logit_rows(hidden.device), allow_retain_graph=True)
            # the library's own sum has the precision of the states; token by token costs a second product
            reduction = "sum" if hidden.dtype == torch.float32 else "none"
            return F.linear_cross_entropy(hidden, weight.to(hidden.dtype), targets, reduction=reduction,
                                          options=options).sum(dtype=torch.float32)
    weight, bias = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)

    def part(rows: Tensor, ids: Tensor) -> Tensor:
        logits = F.linear(rows, weight, bias).float() * logit_scale
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        return F.cross_entropy(logits, ids, reduction="sum")

    total = hidden.new_zeros((), dtype=torch.float32)
    for rows, ids in zip(hidden.split(logit_rows(hidden.device)), targets.split(logit_rows(hidden.device)),
                         strict=True):
        # the backward pass makes its logits again
        total = total + checkpoint(part, rows, ids, use_reentrant=False)
    return total


class _HalfProducts(torch.autograd.Function):
    """bf16 products on a CPU, softmax and sums in float32. Gradients are made with the loss, as the library's
    are: logits are there once. dWeight is summed in float32 over 512 rows at a time (fewer passes over it).

    On AVX512-BF16 1.5 times faster than float32; the library's chunks are slower in bf16 than in float32."""

    ROWS = 512

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        half = weight.bfloat16()
        dhidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        dweight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), dtype=torch.float32)
        # made once: fresh pages cost as much as the products
        wide = torch.empty(min(_HalfProducts.ROWS, len(hidden)), len(weight), dtype=torch.float32)
        halves, sums = torch.empty_like(wide, dtype=torch.bfloat16), torch.empty_like(half)
        for start in range(0, len(hidden), _HalfProducts.ROWS):
            part = slice(start, start + _HalfProducts.ROWS)
            rows, ids = hidden[part], targets[part, None]
            grad = torch.mm(rows, half.T, out=halves[: len(rows)])
            logits = wide[: len(rows)].copy_(grad)
            logsumexp = logits.logsumexp(1, keepdim=True)
            total += (logsumexp - logits.gather(1, ids)).sum()
            logits.sub_(logsumexp).exp_().scatter_add_(1, ids, logits.new_full(ids.shape, -1.0))
            grad.copy_(logits)
            if dhidden is not None:
                torch.mm(grad, half, out=dhidden[part])
            if dweight is not None:
                dweight += torch.mm(grad.T, rows, out=sums)
        ctx.save_for_backward(dhidden, None if dweight is None else dweight.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> Any:  # type: ignore[override]
        return *(None if grad is None else grad * scale for grad in ctx.saved_tensors), None
