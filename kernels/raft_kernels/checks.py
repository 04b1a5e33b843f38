"""What the public functions accept, judged by shapes, dtypes and devices alone.

Nothing here reads a tensor's values, so nothing waits for a GPU. Every message names the
argument, what it was, and what it must be."""

import importlib.util
import math
import os
from typing import TypeGuard

import torch
from torch import Tensor

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BACKENDS = ("torch", "triton", "reference")
REDUCTIONS = ("mean", "sum", "none")
TRITON_MAX_K = 2048


def bad(argument: str, was: object, must_be: str) -> ValueError:
    """The error of every check."""
    return ValueError(f"{argument} was {was}; it must be {must_be}")


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype of products, softmax and loss: float64 where any input is, else float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def savable(tensor: Tensor) -> Tensor:
    """The same memory as a tensor that autograd can save, which one made in inference mode is not."""
    if torch.compiler.is_compiling() or not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.new_empty(0).set_(
            tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
        )


def is_number(value: object) -> TypeGuard[int | float]:
    """A finite int or float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def check_positive(argument: str, value: object) -> float:
    if not is_number(value) or value <= 0:
        raise bad(argument, repr(value), "a finite number > 0")
    return float(value)


def check_epilogue(logit_scale: object, softcap: object) -> tuple[float, float | None]:
    """logit_scale: any finite number but 0; softcap: None or a finite number > 0."""
    if not is_number(logit_scale) or logit_scale == 0:
        raise bad("logit_scale", repr(logit_scale), "a finite number other than 0")
    return float(logit_scale), None if softcap is None else check_positive("softcap", softcap)


def check_float_tensor(argument: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise bad(argument, f"a {type(tensor).__name__}", "a torch.Tensor")
    if tensor.dtype not in FLOATS:
        raise bad(argument, f"of dtype {tensor.dtype}", "float64, float32, bfloat16 or float16")


def check_device(argument: str, tensor: Tensor, hidden: Tensor) -> None:
    if tensor.device != hidden.device:
        raise bad(argument, f"on {tensor.device}", f"on the device of hidden, {hidden.device}")


def check_head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """hidden [..., D], weight [V, D], bias [V] or None, all floating point on one device."""
    check_float_tensor("hidden", hidden)
    check_float_tensor("weight", weight)
    if hidden.dim() < 1:
        raise bad("hidden", "a scalar", "of shape [..., D]")
    if weight.dim() != 2:
        raise bad("weight", f"of shape {list(weight.shape)}", "of shape [V, D]")
    if hidden.shape[-1] != weight.shape[1]:
        raise bad("hidden", f"of shape {list(hidden.shape)}",
                  f"of shape [..., {weight.shape[1]}], the D of weight {list(weight.shape)}")
    check_device("weight", weight, hidden)
    if bias is not None:
        check_float_tensor("bias", bias)
        if bias.shape != weight.shape[:1]:
            raise bad("bias", f"of shape {list(bias.shape)}",
                      f"of shape [{weight.shape[0]}], the V of weight")
        check_device("bias", bias, hidden)


def check_k(k: object, vocab: int) -> int:
    if not is_int(k):
        raise bad("k", repr(k), "an int")
    if not 2 <= k <= vocab:
        raise bad("k", k, f"between 2 (at K = 1 the renormalised KL is identically 0) and the "
                          f"vocabulary size {vocab}")
    return k


def check_vocab_size(vocab_size: object, rows: int) -> int:
    if vocab_size is None:
        return rows
    if not is_int(vocab_size):
        raise bad("vocab_size", repr(vocab_size), "an int or None")
    if not 1 <= vocab_size <= rows:
        raise bad("vocab_size", vocab_size, f"between 1 and the {rows} rows of weight")
    return vocab_size


def check_token_weights(token_weights: object, leading: torch.Size, hidden: Tensor) -> None:
    if token_weights is None:
        return
    if not isinstance(token_weights, Tensor):
        raise bad("token_weights", f"a {type(token_weights).__name__}", "a torch.Tensor or None")
    if token_weights.is_complex():
        raise bad("token_weights", f"of dtype {token_weights.dtype}", "real or bool")
    if token_weights.shape != leading:
        raise bad("token_weights", f"of shape {list(token_weights.shape)}",
                  f"of shape {list(leading)}, one weight a token")
    check_device("token_weights", token_weights, hidden)


def check_reduction(reduction: object) -> None:
    if reduction not in REDUCTIONS:
        raise bad("reduction", repr(reduction), "'mean', 'sum' or 'none'")


def choose_backend(backend: object, hidden: Tensor, weight: Tensor, k: int) -> str:
    """The backend asked for; else Triton where it runs (GPU, no float64, K <= 2048), or torch."""
    doubles = compute_dtype(hidden, weight) == torch.float64
    if backend is None:
        fits = hidden.is_cuda and not doubles and k <= TRITON_MAX_K
        return "triton" if fits and _triton_runs_on(hidden.device) else "torch"
    if backend not in BACKENDS:
        raise bad("backend", repr(backend), "None, 'torch', 'triton' or 'reference'")
    if backend == "triton":
        if doubles:
            raise bad("hidden", "float64 with backend='triton'",
                      "float32, bfloat16 or float16 there (float64 runs on 'torch', 'reference')")
        if k > TRITON_MAX_K:
            raise bad("k", k, f"at most {TRITON_MAX_K} with backend='triton'")
        if not _triton_runs_on(hidden.device):
            raise bad("hidden", f"on {hidden.device} with backend='triton'",
                      "on a GPU with Triton installed (or TRITON_INTERPRET=1 set)")
    return str(backend)


def _triton_runs_on(device: torch.device) -> bool:
    interpreted = os.environ.get("TRITON_INTERPRET", "0") == "1"
    has_triton = importlib.util.find_spec("triton") is not None
    return has_triton and (device.type == "cuda" or interpreted)
