"""From views to hidden states at the completion tokens, with little padding in between."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from raft_fast.chat import View

# Padded tokens of one forward pass: enough for full speed, few enough that rows of very different
# length do not meet. A GPU needs more of them to be busy.
BUCKET_TOKENS = {"cpu": 512, "cuda": 16384}


@dataclass(frozen=True)
class Batch:
    """R right-padded rows of length S.

    input_ids, attention_mask, position_ids: int64 [R, S].
    predicts: int64 [N], flat positions (row * S + column) whose hidden state predicts a completion
    token, row by row.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    predicts: torch.Tensor


def pad(views: Sequence[View], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """Pad views on the right. All masks come from lengths, so pad == eos is harmless."""
    longest = max(len(view.ids) for view in views)
    ids = torch.full((len(views), longest), pad_id)
    mask = torch.zeros_like(ids)
    predicts: list[int] = []
    for row, view in enumerate(views):
        ids[row, : len(view.ids)] = torch.tensor(view.ids)
        mask[row, : len(view.ids)] = 1
        first = row * longest + len(view.prompt) - 1  # the last prompt token predicts the first one
        predicts.extend(range(first, first + len(view.completion)))
    positions = torch.arange(longest).expand(len(views), longest)
    return Batch(ids.to(device), mask.to(device), positions.to(device),
                 torch.tensor(predicts, dtype=torch.long, device=device))


def completion_hidden(model: Any, views: Sequence[View], pad_id: int) -> torch.Tensor:
    """Final hidden states [N, D] at the positions that predict the views' completion tokens.

    N counts the completion tokens of all views, view by view in the order given. Views of similar
    length share a forward pass.
    """
    parts: list[torch.Tensor] = [torch.empty(0)] * len(views)
    for chosen in buckets([len(view.ids) for view in views],
                          BUCKET_TOKENS.get(model.device.type, BUCKET_TOKENS["cuda"])):
        batch = pad([views[index] for index in chosen], pad_id, model.device)
        with mixed_precision(model):
            hidden_RSD = model.get_decoder()(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask,
                position_ids=batch.position_ids, use_cache=False).last_hidden_state
        hidden_ND = hidden_RSD.flatten(0, 1)[batch.predicts]
        lengths = [len(views[index].completion) for index in chosen]
        for index, part in zip(chosen, hidden_ND.split(lengths), strict=True):
            parts[index] = part
    hidden_ND = torch.cat(parts)
    # norms leave autocast in float32; the heads' products over the vocabulary are bf16 on a GPU
    return hidden_ND.bfloat16() if model.device.type == "cuda" else hidden_ND


def mixed_precision(model: Any) -> torch.autocast:
    """bf16 products for a model whose weights are float32 on a GPU (the student); elsewhere nothing."""
    wanted = model.device.type == "cuda" and model.dtype == torch.float32
    return torch.autocast(model.device.type, torch.bfloat16, enabled=wanted)


def completion_ids(views: Sequence[View], device: torch.device) -> torch.Tensor:
    """The views' completion tokens, int64 [N], in the order of `completion_hidden`."""
    ids = [token for view in views for token in view.completion]
    return torch.tensor(ids, dtype=torch.long, device=device)


def buckets(
    lengths: Sequence[int], tokens: int, rows: int | None = None
) -> Iterator[list[int]]:
    """Indices grouped by similar length, longest first; a group pads to at most `tokens`, or is one row.

    `rows` is the most that a group holds, where memory is not all that counts.
    """
    chosen: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if chosen and (lengths[chosen[0]] * (len(chosen) + 1) > tokens or len(chosen) == rows):
            yield chosen
            chosen = []
        chosen.append(index)
    if chosen:
        yield chosen
