"""Attention of packed sequences: each token sees the earlier ones of its own sequence and no others.

Registered with transformers as "packed". The sequences of a pack lie behind each other in one row, and
`cu_seq_lens_q` says where each starts, just as transformers tells flash-attn; no S x S mask is ever made.
Sequences may share the beginning of a prompt, which stands in the row once: `key_places` then says which
keys each one sees. Without `cu_seq_lens_q` (generation, padded rows) it is transformers' own "sdpa".

A model packs if sequences in one row are what they are alone: `pack_attention` compares them."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from raft_fast.models.architecture import PACKED, packs, text_config
from raft_fast.models.chat import View
from raft_fast.models.packing import completion_hidden

PROBE_WINDOW = 4
LAYERS = {"full_attention", "sliding_attention"}  # all whose mask follows from where a sequence starts


def packed_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor | None = None, max_length_q: int | None = None,
    sliding_window: int | None = None, scaling: float | None = None, cu_seq_lens_k: Tensor | None = None,
    max_length_k: int | None = None, key_places: Tensor | None = None, **options: Any,
) -> tuple[Tensor, None]:
    """query [1, H, S, Dh], key and value [1, H_kv, S, Dh] over all sequences -> [1, S, H, Dh].

    cu_seq_lens_q: int32 [sequences + 1], where the queries of each sequence start, and S.
    key_places: int64 [K], the positions in the row that a sequence sees, sequence by sequence, the last of
    them its own queries; cu_seq_lens_k says where each starts, and K. None: a sequence sees itself alone."""
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    if key_places is None or cu_seq_lens_k is None:
        cu_seq_lens_k, max_length_k = cu_seq_lens_q, max_length_q
    else:
        key, value = (states.index_select(2, key_places) for states in (key, value))
    half = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else value.dtype
    if value.is_cuda and half.itemsize == 2 and max_length_q is not None and max_length_k is not None:
        query, key, value = (states.to(half) for states in (query, key, value))
        return _flash(query, key, value, (cu_seq_lens_q, cu_seq_lens_k), (max_length_q, max_length_k),
                      sliding_window, scaling), None
    if value.dtype != query.dtype:  # autocast on a CPU, where attention is slower in bf16
        query, key, value = (states.float() for states in (query, key, value))
    queries, keys = cu_seq_lens_q.diff().tolist(), cu_seq_lens_k.diff().tolist()
    # split, not sliced: the gradient of a slice is as long as the row, once for every sequence
    parts = zip(query.split(queries, 2), key.split(keys, 2), value.split(keys, 2),
                _masks(queries, keys, sliding_window, query), strict=True)
    with torch.autocast(query.device.type, enabled=False):
        return torch.cat([sdpa_attention_forward(module, q, k, v, mask, scaling=scaling, **options)[0]
                          for q, k, v, mask in parts], dim=1), None


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)


def _flash(query: Tensor, key: Tensor, value: Tensor, starts: tuple[Tensor, Tensor],
           longest: tuple[int, int], window: int | None, scaling: float | None) -> Tensor:
    """torch's own flash attention over sequences of any length; half precision, CUDA.

    starts, longest: of queries and of keys. Its causal mask is aligned at the last query and the last key."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
    left = -1 if window is None else window - 1  # keys before the token itself
    packed: Any = varlen_attn(q, k, v, *starts, *longest, scale=scaling,
                              window_size=(left, 0), enable_gqa=q.shape[1] != k.shape[1])
    return packed.unsqueeze(0)


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


def pack_attention(model: Any) -> None:
    """Let a model pack that was loaded with "sdpa" or a flash-attn, where sequences in one row are what they
    are alone; and share prompts, or parts of them, where they still are.

    Others (state-space layers, chunked attention, windows that only a mask tells of, kernels that this GPU
    lacks) keep padded rows, and transformers' own attention."""
    asked = model.config._attn_implementation
    model.shares_prompts = False
    if asked != "sdpa" and not packs(model):
        return
    plain = "sdpa" if getattr(model, "_supports_sdpa", True) else "eager"
    packed = PACKED if asked == "sdpa" else asked
    why = "it would change what the model computes"
    if set(getattr(text_config(model), "layer_types", None) or []) <= LAYERS:
        with _narrow_windows(model):
            for model.shares_prompts in [True, False] if packed == PACKED else [False]:
                try:
                    if _close(*(_probe(model, name) for name in (plain, "eager", packed))):
                        return
                except (ImportError, RuntimeError, TypeError, ValueError) as error:
                    why = f"packed attention fails here ({error})"
    model.set_attn_implementation(plain)
    if asked != "sdpa" or "fails" in why:
        warnings.warn(f"sequences are padded: {why}; attention is {plain!r}", stacklevel=2)


@contextmanager
def _narrow_windows(model: Any) -> Iterator[None]:
    """Attention windows of 4 tokens for a while: real ones are longer than any probe."""
    owners: Iterable[Any] = (owner for module in model.modules()
                             for owner in (module, getattr(module, "config", None)))
    windows = [(owner, window) for owner in owners
               if isinstance(window := getattr(owner, "sliding_window", None), int) and window > PROBE_WINDOW]
    for owner, _ in windows:
        owner.sliding_window = PROBE_WINDOW
    try:
        yield
    finally:
        for owner, window in windows:
            owner.sliding_window = window


Probe = tuple[Tensor, Tensor, set[int]]
"""Completion states of a few sequences and the gradient at each token's embedding, float32; and ids of the
parameters that get a gradient (packed attention never sees a mask that a model learns)."""


def _close(wanted: Probe, rounded: Probe, found: Probe) -> bool:
    """Allowed is three times the rounding between two plain implementations, or the square root of float32's:
    a look at a neighbour, or past a window, changes far more."""
    for want, plainly, got in zip(wanted[:2], rounded[:2], found[:2], strict=True):
        allowed = max(3 * (plainly - want).norm(), torch.finfo(torch.float32).eps ** 0.5 * want.norm())
        if not (got - want).norm() <= allowed:
            return False
    return found[2] == wanted[2]


@torch.enable_grad()
def _probe(model: Any, implementation: str) -> Probe:
    """Four sequences, in one row where the model packs: two have one prompt, another's begins as it does.
    Gradients are summed by token, as some may be read once."""
    model.set_attn_implementation(implementation)
    views = [View([1, 5, 3], [2, 3, 4, 5, 6, 7, 8, 9, 2, 4, 6]), View([6], [7, 8, 9, 3, 5, 1, 2]),
             View([1, 5, 3], [4, 9, 9, 2, 7, 5]), View([1, 5, 4, 2], [8, 1])]
    embedded: list[Tensor] = []
    tokens: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor:
        tokens.append(inputs[0].flatten())
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        hidden = torch.cat([completion_hidden(model, members, pad_id=0) for members in
                            ([views] if packs(model) else [[view] for view in views])]).float()
    finally:
        hook.remove()
    # not the plain sum of squares: behind a norm it is nearly constant
    gradients = torch.autograd.grad(hidden.cos().sum(), embedded)
    flat = torch.cat([part.flatten(0, 1) for part in gradients]).float()
    by_token = flat.new_zeros(10, flat.shape[1]).index_add(0, torch.cat(tokens), flat)
    return hidden.detach(), by_token, _leaves(hidden) & set(map(id, model.parameters()))


def _leaves(tensor: Tensor) -> set[int]:
    """Ids of all tensors that a backward pass from `tensor` would give a gradient, read off its graph: the
    gradients themselves would take as much memory as the model."""
    seen, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(earlier for earlier, _ in node.next_functions)
    return {id(node.variable) for node in seen if hasattr(node, "variable")}
