"""Attention of packed sequences: each token sees the earlier ones of its own sequence and no others.

Registered with transformers as "packed". The sequences of a pack lie behind each other in one row, and
`cu_seq_lens_q` says where each starts, just as transformers tells flash-attn; no S x S mask is ever made.
Without `cu_seq_lens_q` (generation, padded rows) it is transformers' own "sdpa".
"""

import warnings
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "packed"
PACKING = {PACKED, "flash_attention_2", "flash_attention_3", "flash_attention_4"}
LAYERS = {"full_attention", "sliding_attention"}  # all whose mask follows from where a sequence starts


def packed_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor | None = None, max_length_q: int | None = None,
    sliding_window: int | None = None, scaling: float | None = None, **options: Any,
) -> tuple[Tensor, None]:
    """query [1, H, S, Dh], key and value [1, H_kv, S, Dh] over all sequences -> [1, S, H, Dh].

    cu_seq_lens_q: int32 [sequences + 1], where each sequence starts, and S.
    """
    if cu_seq_lens_q is None or options.get("cache") is not None:  # paged generation has its own masks
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    half = _half_precision(value)
    if value.is_cuda and half is not None and max_length_q is not None:
        query, key, value = (states.to(half) for states in (query, key, value))
        return _flash(query, key, value, cu_seq_lens_q, max_length_q, sliding_window, scaling), None
    starts, parts = cu_seq_lens_q.tolist(), []
    for start, end in pairwise(starts):
        q, k, v = (states[:, :, start:end] for states in (query, key, value))
        mask = _window_mask(end - start, sliding_window, query.device)
        parts.append(sdpa_attention_forward(module, q, k, v, mask, scaling=scaling, **options)[0])
    return torch.cat(parts, dim=1), None


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)


def pack_attention(model: Any) -> None:
    """Let a model that was loaded with "sdpa" pack, where packed and separate sequences give the same.

    Others (state-space layers, chunked attention, kernels that this GPU lacks) keep padded rows.
    """
    config = model.config
    if config._attn_implementation != "sdpa" or not set(getattr(config, "layer_types", None) or []) <= LAYERS:
        return
    model.set_attn_implementation(PACKED)
    try:
        same = _packs(model)
    except (RuntimeError, TypeError, ValueError) as error:
        warnings.warn(f"sequences are padded: packed attention fails here ({error})", stacklevel=2)
        same = False
    if not same:
        model.set_attn_implementation("sdpa")


def packs(model: Any) -> bool:
    """Whether a row of this model may hold several sequences."""
    return model.config._attn_implementation in PACKING


@torch.no_grad()
def _packs(model: Any) -> bool:
    """Whether two sequences in one row end up as they do alone, to the square root of the precision:
    far above rounding, far below what a look at the neighbour changes."""
    from raft_fast.chat import View
    from raft_fast.packing import completion_hidden

    first, second = View([1], [2, 3, 4, 5]), View([6], [7, 8, 9])
    together = completion_hidden(model, [first, second], pad_id=0)[len(first.completion) :].float()
    alone = completion_hidden(model, [second], pad_id=0).float()
    allowed = torch.finfo(model.dtype).eps ** 0.5 * alone.norm()
    return bool((together - alone).norm() <= allowed)


def _flash(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int,
           window: int | None, scaling: float | None) -> Tensor:
    """torch's own flash attention over sequences of any length; half precision, CUDA."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
    left = -1 if window is None else window - 1  # keys before the token itself
    packed: Any = varlen_attn(q, k, v, starts, starts, longest, longest, scale=scaling,
                              window_size=(left, 0), enable_gqa=q.shape[1] != k.shape[1])
    return packed.unsqueeze(0)


def _half_precision(states: Tensor) -> torch.dtype | None:
    """The half precision that autocast or the states ask for."""
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    return dtype if dtype in (torch.bfloat16, torch.float16) else None


def _window_mask(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """bool [1, 1, L, L] where a sequence is longer than the window; else None, which is causal."""
    if window is None or length <= window:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(1 - window)[None, None]
