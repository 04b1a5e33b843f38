"""Whether a model may be packed: sequences in one row are compared with the same ones alone."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raft_fast.models.architecture import text_config
from raft_fast.models.attention import PACKED, PACKING, packs
from raft_fast.models.chat import View
from raft_fast.models.packing import completion_hidden

PROBE_WINDOW = 4
LAYERS = {"full_attention", "sliding_attention"}  # all whose mask follows from where a sequence starts


def pack_attention(model: Any) -> None:
    """Let a model pack that was loaded with "sdpa" or a flash-attn, where packing changes nothing.

    Others (state-space layers, chunked attention, windows that only a mask tells of, kernels that this GPU
    lacks) keep padded rows, and transformers' own attention.
    """
    asked = model.config._attn_implementation
    model.shares_prompts = False
    if asked != "sdpa" and asked not in PACKING:
        return
    plain = "sdpa" if getattr(model, "_supports_sdpa", True) else "eager"
    packed = PACKED if asked == "sdpa" else asked
    try:
        known = set(getattr(text_config(model), "layer_types", None) or []) <= LAYERS
        same = known and _packs(model, packed, plain)
        why = "it would change what the model computes"
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        same, why = False, f"packed attention fails here ({error})"
    model.set_attn_implementation(packed if same else plain)
    if not same and (asked != "sdpa" or "fails" in why):
        warnings.warn(f"sequences are padded: {why}; attention is {plain!r}", stacklevel=2)


def _packs(model: Any, packed: str, plain: str) -> bool:
    """Whether sequences in one row are what they are alone under `plain`: states, gradients, and which
    parameters get one (packed attention never sees a mask that a model learns); and whether they still are
    where they share prompts or parts of them, which `model.shares_prompts` remembers.

    Allowed is three times the rounding between two plain implementations, "eager" and `plain`, or the
    square root of float32's: a look at a neighbour, or past a window, changes far more.
    """
    with _narrow_windows(model):
        wanted, rounded, found = (_probe(model, name) for name in (plain, "eager", packed))
        if not _close(found, wanted, rounded):
            return False
        if packed == PACKED:
            model.shares_prompts = True
            try:
                model.shares_prompts = _close(_probe(model, packed), wanted, rounded)
            except (RuntimeError, TypeError, ValueError):
                model.shares_prompts = False
    return True


@dataclass(frozen=True)
class Probe:
    """What a model makes of a few sequences, float32: completion states, the gradient at each token's
    embedding, and the parameters that a gradient of the states reaches, by their ids."""

    states: Tensor
    gradients: Tensor
    reached: frozenset[int]


def _close(found: Probe, wanted: Probe, rounded: Probe) -> bool:
    for got, want, plainly in ((found.states, wanted.states, rounded.states),
                               (found.gradients, wanted.gradients, rounded.gradients)):
        allowed = max(3 * (plainly - want).norm(), torch.finfo(torch.float32).eps ** 0.5 * want.norm())
        if not (got - want).norm() <= allowed:
            return False
    return found.reached == wanted.reached


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
    reached = _leaves(hidden) & {id(parameter) for parameter in model.parameters()}
    return Probe(hidden.detach(), by_token, frozenset(reached))


def _leaves(tensor: Tensor) -> set[int]:
    """Ids of all tensors that a backward pass from `tensor` would give a gradient, read off its graph: the
    gradients themselves would take as much memory as the model."""
    seen: set[Any] = set()
    waiting = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(earlier for earlier, _ in node.next_functions)
    return {id(node.variable) for node in seen if hasattr(node, "variable")}


@contextmanager
def _narrow_windows(model: Any) -> Iterator[None]:
    """Attention windows of 4 tokens for a while: real ones are longer than any probe."""
    owners: Iterable[Any] = {id(owner): owner for module in model.modules()
              for owner in (module, getattr(module, "config", None))}.values()
    windows = [(owner, window) for owner in owners
               if isinstance(window := getattr(owner, "sliding_window", None), int) and window > PROBE_WINDOW]
    for owner, _ in windows:
        owner.sliding_window = PROBE_WINDOW
    try:
        yield
    finally:
        for owner, window in windows:
            owner.sliding_window = window
