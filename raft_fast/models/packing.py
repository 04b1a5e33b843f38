"""From views to hidden states at the completion tokens: packed into one row, or padded where a model must."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from raft_fast.models.architecture import PACKED, packs, rope_switches, shares_prompts
from raft_fast.models.chat import View

# Tokens of one forward pass whose activations need not be kept. Padded rows stop far earlier on a CPU,
# so that rows of very different length do not meet; a GPU needs the tokens to be busy.
PASS_TOKENS = 16384
BUCKET_TOKENS = {"cpu": 512, "cuda": PASS_TOKENS}


@dataclass(frozen=True)
class Batch:
    """R rows of length S: one packed row, or one right-padded row a view.

    inputs: input_ids and position_ids, int64 [R, S], and what tells a model where sequences end.
    predicts: int64 [N], flat positions (row * S + column) that predict completion tokens, view by view."""

    inputs: dict[str, Any]
    predicts: torch.Tensor


def completion_hidden(model: Any, views: Sequence[View], pad_id: int) -> torch.Tensor:
    """Final hidden states [N, D] at the positions that predict the views' completion tokens.

    N counts the completion tokens of all views, view by view in the order given. A model that packs sees all
    views in one row, and where it shares prompts what they begin with alike once; another sees padded rows of
    similar length together. Views whose rotary frequencies differ by their length never share a pass."""
    parts: list[torch.Tensor] = [torch.empty(0)] * len(views)
    packed = packs(model)
    for chosen in _passes(model, [len(view.ids) for view in views]):
        members = [views[index] for index in chosen]
        batch = pack(members, model) if packed else pad(members, pad_id, model.device)
        with mixed_precision(model):
            hidden_RSD = model.get_decoder()(**batch.inputs, use_cache=False).last_hidden_state
        hidden_ND = hidden_RSD.flatten(0, 1)[batch.predicts]
        for index, part in zip(chosen, hidden_ND.split([len(view.completion) for view in members]),
                               strict=True):
            parts[index] = part
    hidden_ND = torch.cat(parts)
    # norms leave autocast in float32; the heads' products over the vocabulary are bf16
    return hidden_ND.bfloat16() if is_mixed(model) else hidden_ND


def _passes(model: Any, lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of the sequences that go through the model together."""
    switches, packed = rope_switches(model), packs(model)
    for side in range(len(switches) + 1):
        alike = [index for index, length in enumerate(lengths) if bisect_left(switches, length) == side]
        own = [lengths[index] for index in alike]
        if packed:  # under autograd one pass whatever its size: the caller's micro-batch bounds the memory
            groups = consecutive(own, sum(own) if torch.is_grad_enabled() else PASS_TOKENS)
        else:
            groups = buckets(own, BUCKET_TOKENS.get(model.device.type, PASS_TOKENS))
        yield from ([alike[place] for place in group] for group in groups)


@dataclass(frozen=True)
class Segment:
    """What a view adds to a row: its tokens, but for the first `read`, which prompts before it have brought.
    `places`: the row's positions that hold the view's tokens, prompt and completion; what it attends to."""

    view: View
    places: list[int]
    read: int

    @property
    def added(self) -> int:
        return len(self.places) - self.read

    @property
    def predicts(self) -> list[int]:
        """Positions that predict the completion: the last prompt token predicts the first one."""
        first = len(self.view.prompt) - 1
        return self.places[first : first + len(self.view.completion)]


Known = dict[int, tuple[int, "Known"]]
"""The prompts of a row as a tree: a token's place, and what follows it."""


def lay_out(views: Sequence[View], share: bool) -> list[Segment]:
    """Segments behind each other in one row; if `share`, what prompts begin with alike stands there once. A
    view that would add nothing (no completion behind a prompt that is there) has none."""
    segments: list[Segment] = []
    prompts: Known = {}
    end = 0
    for view in views:
        read, following = [], prompts
        for token in view.prompt if share else []:
            if token not in following:
                break
            place, following = following[token]
            read.append(place)
        added = range(end, end + len(view.ids) - len(read))
        if added:
            segments.append(Segment(view, [*read, *added], len(read)))
            for token, place in zip(view.prompt[len(read) :], added, strict=False):
                following[token] = (place, {})
                following = following[token][1]
        end = added.stop
    return segments


def pack(views: Sequence[View], model: Any) -> Batch:
    """All views in one row without padding; positions count a view's own tokens, its prompt included."""
    device, segments = model.device, lay_out(views, shares_prompts(model))
    added, lengths = [one.added for one in segments], [len(one.places) for one in segments]
    starts_cu = to_device([0, *accumulate(added)], device, torch.int32)
    tokens = [token for one in segments for token in one.view.ids[one.read :]]
    positions = [place for one in segments for place in range(one.read, len(one.places))]
    inputs = {"input_ids": to_device([tokens], device), "position_ids": to_device([positions], device),
              "cu_seq_lens_q": starts_cu, "cu_seq_lens_k": starts_cu,
              "max_length_q": max(added), "max_length_k": max(lengths)}
    if sum(lengths) > sum(added):
        inputs["cu_seq_lens_k"] = to_device([0, *accumulate(lengths)], device, torch.int32)
        inputs["key_places"] = to_device([place for one in segments for place in one.places], device)
    if model.config._attn_implementation == PACKED:
        # transformers takes a mask of four dimensions as it is, instead of making one of S x S
        inputs["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
    return Batch(inputs, to_device([place for one in segments for place in one.predicts], device))


def pad(views: Sequence[View], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """Pad views on the right. All masks come from lengths, so pad == eos is harmless."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(view.ids) for view in views], True, pad_id)
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    mask = (positions < torch.tensor([[len(view.ids)] for view in views])).long()
    predicts = [place for row, view in enumerate(views)
                for place in Segment(view, list(range(row * ids.shape[1], ids.numel())), 0).predicts]
    return Batch({"input_ids": ids.to(device), "attention_mask": mask.to(device),
                  "position_ids": positions.to(device)}, to_device(predicts, device))


def mixed_precision(model: Any) -> torch.autocast:
    """bf16 products for a student whose weights are float32; elsewhere nothing."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=is_mixed(model))


def is_mixed(model: Any) -> bool:
    """Whether products are made in fewer bits than the weights have."""
    return model.dtype == torch.float32 and getattr(model, "bf16_products", False)


def completion_ids(views: Sequence[View], device: torch.device) -> torch.Tensor:
    """The views' completion tokens, int64 [N], in the order of `completion_hidden`."""
    return to_device([token for view in views for token in view.completion], device)


def buckets(lengths: Sequence[int], tokens: int, rows: int | None = None) -> Iterator[list[int]]:
    """Indices grouped by similar length, longest first; a group has at most `rows` (where memory is not all
    that counts) and pads to at most `tokens`, or is one row."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return _groups(order, rows, lambda chosen: lengths[chosen[0]] * len(chosen) <= tokens)


def consecutive(lengths: Sequence[int], tokens: int, rows: int | None = None) -> Iterator[list[int]]:
    """Indices in their order, in groups of at most `tokens` and `rows`; a longer one is alone."""
    return _groups(range(len(lengths)), rows, lambda chosen: sum(lengths[one] for one in chosen) <= tokens)


def _groups(order: Iterable[int], rows: int | None, fits: Callable[[list[int]], bool]) -> Iterator[list[int]]:
    chosen: list[int] = []
    for index in order:
        if chosen and (len(chosen) == rows or not fits([*chosen, index])):
            yield chosen
            chosen = []
        chosen.append(index)
    if chosen:
        yield chosen


def to_device(values: Sequence[Any] | torch.Tensor, device: torch.device | str,
              dtype: torch.dtype = torch.long) -> torch.Tensor:
    """Numbers that the CPU holds, to the device without waiting for it."""
    tensor = torch.as_tensor(values, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" \
        else tensor.to(device)
