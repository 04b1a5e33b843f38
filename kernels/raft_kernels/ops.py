"""The two operators torch.compile sees: select and sampled logits (with its backward).

Opaque custom ops with fakes, so that a compiled trainer has no graph break and the backends may
launch what they like. Arguments are validated before they come here."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .checks import compute_dtype


def _operation(name: str, backend: str) -> Callable[..., Any]:
    """One of the three operations of a backend; Triton is imported only when it is first used."""
    triton = "triton_select" if name == "select" else "triton_sampled"
    module = import_module(f".{'torch_ops' if backend == 'torch' else triton}", __package__)
    return getattr(module, name)  # type: ignore[no-any-return]


def _as_given(tensor: Tensor) -> Any:
    """Autocast off: it would turn the float32 products inside into bf16 ones."""
    return torch.autocast(tensor.device.type, enabled=False)


@torch.library.custom_op("raft_kernels::select", mutates_args=())
def select(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, k: int, temperature: float,
    logit_scale: float, softcap: float | None, backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids [N, K] int64 and logits [N, K] of the K largest, best first, ties to the lower id.

    Third, [N]: log of the sum over the vocabulary of exp((logit - best) / T)."""
    with _as_given(hidden_ND):
        return _operation("select", backend)(  # type: ignore[no-any-return]
            hidden_ND, weight_VD, bias_V, k, temperature, logit_scale, softcap
        )


@select.register_fake
def _(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, k: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    n, dtype = hidden_ND.shape[0], compute_dtype(hidden_ND, weight_VD)
    ids_NK = hidden_ND.new_empty((n, k), dtype=torch.int64)
    return ids_NK, hidden_ND.new_empty((n, k), dtype=dtype), hidden_ND.new_empty(n, dtype=dtype)


@torch.library.custom_op("raft_kernels::sampled_logits", mutates_args=())
def sampled_logits(
    hidden_ND: Tensor, weight_VD: Tensor, ids_NK: Tensor, active_N: Tensor | None, backend: str
) -> Tensor:
    """hidden[n] . weight[ids[n, k]] as [N, K] in float32 (float64 for float64).

    Rows where active_N is False come out 0, cost nothing, and neither give nor take a gradient."""
    with _as_given(hidden_ND):
        return _operation("sampled_logits", backend)(  # type: ignore[no-any-return]
            hidden_ND, weight_VD, ids_NK, active_N
        )


@sampled_logits.register_fake
def _(hidden_ND: Tensor, weight_VD: Tensor, ids_NK: Tensor, *_: Any) -> Tensor:
    return hidden_ND.new_empty(ids_NK.shape, dtype=compute_dtype(hidden_ND, weight_VD))


@torch.library.custom_op("raft_kernels::sampled_backward", mutates_args=())
def sampled_backward(
    grad_NK: Tensor, hidden_ND: Tensor, weight_VD: Tensor, ids_NK: Tensor, active_N: Tensor | None,
    need_hidden: bool, need_weight: bool, backend: str,
) -> tuple[Tensor, Tensor]:
    """dHidden [N, D] and dWeight [V, D] in their inputs' dtypes; empty where not needed."""
    with _as_given(hidden_ND):
        dhidden, dweight = _operation("sampled_backward", backend)(
            grad_NK, hidden_ND, weight_VD, ids_NK, active_N, need_hidden, need_weight
        )
    return (
        hidden_ND.new_empty(0) if dhidden is None else dhidden,
        weight_VD.new_empty(0) if dweight is None else dweight,
    )


@sampled_backward.register_fake
def _(
    grad_NK: Tensor, hidden_ND: Tensor, weight_VD: Tensor, ids_NK: Tensor, active_N: Tensor | None,
    need_hidden: bool, need_weight: bool, backend: str,
) -> tuple[Tensor, Tensor]:
    return (
        hidden_ND.new_empty(hidden_ND.shape if need_hidden else (0,)),
        weight_VD.new_empty(weight_VD.shape if need_weight else (0,)),
    )


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    hidden_ND, weight_VD, ids_NK, active_N, ctx.backend = inputs
    ctx.save_for_backward(hidden_ND, weight_VD, ids_NK, active_N)


def _backward(ctx: Any, grad_NK: Tensor) -> tuple[Tensor | None, ...]:
    need_hidden, need_weight = ctx.needs_input_grad[:2]
    dhidden, dweight = sampled_backward(
        grad_NK.contiguous(), *ctx.saved_tensors, need_hidden, need_weight, ctx.backend
    )
    return dhidden if need_hidden else None, dweight if need_weight else None, None, None, None


sampled_logits.register_autograd(_backward, setup_context=_keep_for_backward)
