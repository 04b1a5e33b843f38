"""From views to tensors and back: one padded batch, hidden states at the completion tokens only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from raft_fast.chat import View


@dataclass(frozen=True)
class Batch:
    """R right-padded rows of length S, and where their N completion tokens are predicted.

    input_ids, attention_mask, position_ids: int64 [R, S].
    predicts: int64 [N], flat positions (row * S + column) whose hidden state predicts a completion
    token, row by row. targets: int64 [N], those tokens. lengths: completion tokens of each row.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    predicts: torch.Tensor
    targets: torch.Tensor
    lengths: list[int]

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return int(self.attention_mask.sum())


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
    targets = [token for view in views for token in view.completion]
    positions = torch.arange(longest).expand(len(views), longest)
    return Batch(ids.to(device), mask.to(device), positions.to(device),
                 torch.tensor(predicts, dtype=torch.long, device=device),
                 torch.tensor(targets, dtype=torch.long, device=device),
                 [len(view.completion) for view in views])


def completion_hidden(model: Any, batch: Batch) -> torch.Tensor:
    """Final hidden states [N, D] at the positions that predict the completion tokens."""
    hidden_RSD = model.get_decoder()(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask,
        position_ids=batch.position_ids, use_cache=False).last_hidden_state
    return hidden_RSD.flatten(0, 1)[batch.predicts]
