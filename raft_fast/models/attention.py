"""Attention of packed sequences: each token sees the earlier ones of its own sequence and no others.

Registered with transformers as "packed". The sequences of a pack lie behind each other in one row, and
`cu_seq_lens_q` says where each starts, just as transformers tells flash-attn; no S x S mask is ever made.
Sequences may share the beginning of a prompt, which stands in the row once: `key_places` then says which
keys each one sees. Without `cu_seq_lens_q` (generation, padded rows) it is transformers' own "sdpa".
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "packed"
PACKING = {PACKED, "flash_attention_2", "flash_attention_3", "flash_attention_4"}


def packed_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor | None = None, max_length_q: int | None = None,
    sliding_window: int | None = None, scaling: float | None = None, cu_seq_lens_k: Tensor | None = None,
    max_length_k: int | None = None, key_places: Tensor | None = None, **options: Any,
) -> tuple[Tensor, None]:
    """query [1, H, S, Dh], key and value [1, H_kv, S, Dh] over all sequences -> [1, S, H, Dh].

    cu_seq_lens_q: int32 [sequences + 1], where the queries of each sequence start, and S.
    key_places: int64 [K], the positions in the row that a sequence sees, sequence by sequence, the last of
    them its own queries; cu_seq_lens_k says where each starts, and K. None: a sequence sees itself alone.
    """
    if cu_seq_lens_q is None or options.get("cache") is not None:  # paged generation has its own masks
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    if key_places is None or cu_seq_lens_k is None:
        cu_seq_lens_k, max_length_k = cu_seq_lens_q, max_length_q
    else:
        key, value = (states.index_select(2, key_places) for states in (key, value))
    half = _half_precision(value)
    if value.is_cuda and half is not None and max_length_q is not None and max_length_k is not None:
        query, key, value = (states.to(half) for states in (query, key, value))
        return _flash(query, key, value, (cu_seq_lens_q, cu_seq_lens_k), (max_length_q, max_length_k),
                      sliding_window, scaling), None
    queries, keys = cu_seq_lens_q.diff().tolist(), cu_seq_lens_k.diff().tolist()
    # split, not sliced: the gradient of a slice is as long as the row, once for every sequence
    parts = zip(query.split(queries, 2), key.split(keys, 2), value.split(keys, 2),
                _masks(queries, keys, sliding_window, query), strict=True)
    return torch.cat([sdpa_attention_forward(module, q, k, v, mask, scaling=scaling, **options)[0]
                      for q, k, v, mask in parts], dim=1), None


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)


def packs(model: Any) -> bool:
    """Whether a row of this model may hold several sequences."""
    return model.config._attn_implementation in PACKING


def shares_prompts(model: Any) -> bool:
    """Whether sequences of a row may share what their prompts begin with: under "packed" alone, as flash-attn
    cannot choose keys."""
    return model.config._attn_implementation == PACKED and getattr(model, "shares_prompts", False)


def _flash(query: Tensor, key: Tensor, value: Tensor, starts: tuple[Tensor, Tensor],
           longest: tuple[int, int], window: int | None, scaling: float | None) -> Tensor:
    """torch's own flash attention over sequences of any length; half precision, CUDA.

    starts, longest: of queries and of keys. Its causal mask is aligned at the last query and the last key.
    """
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
    left = -1 if window is None else window - 1  # keys before the token itself
    packed: Any = varlen_attn(q, k, v, *starts, *longest, scale=scaling,
                              window_size=(left, 0), enable_gqa=q.shape[1] != k.shape[1])
    return packed.unsqueeze(0)


def _half_precision(states: Tensor) -> torch.dtype | None:
    """The half precision that autocast or the states ask for."""
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    return dtype if dtype in (torch.bfloat16, torch.float16) else None


def _masks(queries: list[int], keys: list[int], window: int | None, like: Tensor) -> list[Tensor | None]:
    """[1, 1, queries, keys] of each sequence, its last query at its last key: 0 where it sees, else -inf;
    None, which is causal, where every key has a query and no window is shorter. All are parts of one, and of
    a dtype that nobody casts: a copy would be kept for every sequence in every layer."""
    earlier = [k - q for q, k in zip(queries, keys, strict=True)]
    causal = [not before and (window is None or q <= window)
              for q, before in zip(queries, earlier, strict=True)]
    if all(causal):
        return [None] * len(queries)
    most, longest = max(earlier), max(q for q, plain in zip(queries, causal, strict=True) if not plain)
    seen = torch.ones(longest, most + longest, dtype=torch.bool, device=like.device).tril(most)
    seen = seen if window is None else seen.triu(most + 1 - window)
    mask = like.new_zeros(1, 1, *seen.shape).masked_fill_(~seen, -torch.inf)
    return [None if plain else mask[:, :, :q, most - before : most + q]
            for q, before, plain in zip(queries, earlier, causal, strict=True)]
