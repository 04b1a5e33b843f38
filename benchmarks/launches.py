"""What the Triton launchers launch, read off the launchers themselves on tensors without data.

`choices` runs them on meta tensors over every class of shape, stride and dtype they tell apart,
with the kernels replaced by recorders, so that what is compiled ahead of time is what a GPU would
compile: the same constants, options and specialisations.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
from raft_kernels import triton_sampled, triton_select, triton_tiles
from torch import Tensor

KERNELS = {  # by name, as they are before anything takes their places
    name: (module, kernel) for module in (triton_select, triton_sampled, triton_tiles)
    for name, kernel in vars(module).items() if isinstance(kernel, triton.JITFunction)}
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
POINTERS = {BF16: "*bf16", FP16: "*fp16", FP32: "*fp32", torch.int64: "*i64", torch.int32: "*i32",
            torch.uint8: "*u8"}


class Variant(NamedTuple):
    """A kernel with what it is specialised on: all that decides its machine code."""

    kernel: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[int, ...]  # places of arguments that are multiples of 16
    options: tuple[tuple[str, int], ...]


class _Recorder:
    """Stands where a kernel stood; `kernel[grid](...)` is noted instead of launched."""

    def __init__(self, kernel: Any, seen: dict[Variant, None]) -> None:
        self.kernel, self.seen = kernel, seen

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **kwargs: self.seen.setdefault(_variant(self.kernel, args, kwargs))


@contextmanager
def recorded() -> Iterator[dict[Variant, None]]:
    """Within it nothing is launched; it gives the variants that would have been, in order."""
    seen: dict[Variant, None] = {}
    for name, (module, kernel) in KERNELS.items():
        setattr(module, name, _Recorder(kernel, seen))
    try:
        yield seen
    finally:
        for name, (module, kernel) in KERNELS.items():
            setattr(module, name, kernel)


def _variant(kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Variant:
    """Triton's own rules: None and 1 are constants, multiples of 16 are known to be."""
    arguments = dict(zip(kernel.arg_names, args, strict=False))
    arguments |= {name: value for name, value in kwargs.items() if name in kernel.arg_names}
    options = {name: value for name, value in kwargs.items() if name not in kernel.arg_names}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    aligned = []
    for place, parameter in enumerate(kernel.params):
        name, value = parameter.name, arguments[parameter.name]
        special = not parameter.do_not_specialize
        one = special and _is_int(value) and value == 1
        if parameter.is_constexpr or value is None or one:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name] = POINTERS[value.dtype]
            if value.storage_offset() * value.element_size() % 16 == 0:
                aligned.append(place)
        elif _is_int(value):
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if special and value % 16 == 0:
                aligned.append(place)
        else:
            signature[name] = "fp32"
    return Variant(kernel.__name__, tuple(signature.items()), tuple(constants.items()), tuple(aligned),
                   tuple(options.items()))


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def choices(quick: bool = False) -> list[Variant]:
    """Every variant of every kernel; `quick` leaves out what differs in a constant or a dtype only."""
    with recorded() as seen:
        for selection in _select_cases(quick):
            _select(*selection)
        for sampling in _sampled_cases(quick):
            _sampled(*sampling)
    return list(seen)


def _select_cases(quick: bool) -> Iterator[tuple[int, int, torch.dtype | None, float | None]]:
    """K, V, the bias's dtype, softcap."""
    if quick:
        yield from ((512, 128256, None, None), (2048, 262144, BF16, 30.0))
        return
    for k in (2, 8, 32, 64, 128, 256, 512, 1024, 1025, 2048):  # every size of sort and of buffer
        yield k, 128256, None, None
    for k, vocab in itertools.product((512, 2048), (1000, 32000, 50257, 262144)):  # bits of an id
        yield k, vocab, None, None
    for k, vocab, bias, cap in itertools.product(
            (512, 2048), (50257, 128256, 262144), (None, BF16, FP16, FP32), (None, 30.0)):
        yield k, vocab, bias, cap


def _select(k: int, vocab: int, bias: torch.dtype | None, cap: float | None) -> None:
    hidden, weight = _meta((2048, 64), BF16), _meta((vocab, 64), BF16)
    bias_V = None if bias is None else _meta((vocab,), bias)
    triton_select.select(hidden, weight, bias_V, k, 1.5, 1.0, cap)


def _sampled_cases(quick: bool) -> Iterator[tuple[Tensor, Tensor, int, bool]]:
    """hidden, weight, K and whether some tokens are dropped."""
    same, mixed = ((BF16, BF16), (FP16, FP16), (FP32, FP32)), ((FP32, BF16), (BF16, FP32))
    vocab = 128256
    for of_hidden, of_weight in same[::2] if quick else same + mixed:
        def head(n: int, d: int, h: torch.dtype = of_hidden, w: torch.dtype = of_weight
                 ) -> tuple[Tensor, Tensor]:
            return _meta((n, d), h), _meta((vocab, d), w)

        hidden, weight = head(2048, 4096)
        yield hidden, weight, 512, True
        yield (*head(2048, 4095), 33, False)  # rows that no wide load can begin
        if quick:
            continue
        yield hidden, weight, 2048, False
        yield (*head(9, 4096), 512, False)  # fewer tokens than a tile: gathers in half precision too
        yield _meta((4096, 2048), of_hidden).T, weight, 512, False
        yield hidden, _meta((4096, vocab), of_weight).T, 512, False
        yield hidden[:, ::2], weight[:, ::2], 512, False
        far = _meta((vocab, 4096), of_weight, (2**31, 1))  # a stride that 32 bits cannot hold
        yield hidden, far, 512, False
        yield _meta((2048, 4096), of_hidden, (2**31, 1)), weight, 512, False
    yield _meta((2048, 1), FP32), _meta((vocab, 1), FP32), 512, False  # the bias, as a product with 1


def _sampled(hidden: Tensor, weight: Tensor, k: int, dropped: bool) -> None:
    n = hidden.shape[0]
    ids, active = _meta((n, k), torch.int64), _meta((n,), torch.bool) if dropped else None
    triton_sampled.sampled_logits(hidden, weight, ids, active)
    triton_sampled.sampled_backward(_meta((n, k), FP32), hidden, weight, ids, active, True, True)


def _meta(shape: tuple[int, ...], dtype: torch.dtype, stride: tuple[int, ...] | None = None) -> Tensor:
    if stride is None:
        return torch.empty(shape, dtype=dtype, device="meta")
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
