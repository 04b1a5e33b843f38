"""From hidden states to logits: the lm_head with its scale and soft-cap."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from raft_fast.models.architecture import text_config
from raft_fast.run.errors import UserError

LOGIT_ROWS = 256  # tokens whose logits over the vocabulary are alive at once, where all of them are needed


@dataclass(frozen=True)
class Head:
    """weight [V, D], bias [V] or None; logits = (hidden @ weight.T + bias) * logit_scale, soft-capped."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    logit_scale: float
    softcap: float | None

    def like(self, hidden: torch.Tensor) -> "Head":
        """Weight and bias in the dtype of the states: a student's are float32, its states bf16 on a GPU."""
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        return replace(self, weight=self.weight.to(hidden.dtype), bias=bias)

    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments that the loss head takes beside hidden and weight."""
        return {"bias": self.bias, "logit_scale": self.logit_scale, "softcap": self.softcap}

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 [N, V]; for small N only."""
        head = self.like(hidden)
        logits = torch.nn.functional.linear(hidden, head.weight, head.bias).float() * self.logit_scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    @torch.no_grad()
    def nll(self, hidden: torch.Tensor, ids: torch.Tensor, temperature: float = 1.0,
            without: Sequence[int] = ()) -> torch.Tensor:
        """-log softmax(logits / temperature)[id] in nats, float32 [N], for hidden [N, D] and ids int64 [N].
        The ids `without` get no probability. Logits of LOGIT_ROWS rows are alive at once."""
        never = torch.tensor(without, dtype=torch.long, device=hidden.device)
        return torch.cat([
            torch.nn.functional.cross_entropy(
                self.logits(rows).div_(temperature).index_fill_(1, never, -torch.inf), told, reduction="none")
            for rows, told in zip(hidden.split(LOGIT_ROWS), ids.split(LOGIT_ROWS), strict=True)])


def head_of(model: Any) -> Head:
    """Read the head of a causal language model of transformers."""
    layer, config = model.get_output_embeddings(), text_config(model)
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    return Head(layer.weight, getattr(layer, "bias", None), float(scale),
                getattr(config, "final_logit_softcapping", None))


def check_head(model: Any, name: str) -> None:
    """Raise UserError if a model does more between hidden states and logits than `Head` knows, or if decoder
    and head cannot be separated."""
    try:
        if not _explains_logits(model):
            raise UserError(f"--model {name}: its logits are not (hidden @ weight.T + bias) * scale with a "
                            "soft-cap; this architecture is not supported")
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"--model {name}: {type(model).__name__} has no decoder with a head behind it "
                        f"({error}); this architecture is not supported") from error


@torch.no_grad()
def _explains_logits(model: Any) -> bool:
    ids = torch.arange(1, 9, device=model.device)[None]
    hidden = model.get_decoder()(input_ids=ids).last_hidden_state[0]
    expected, found = model(input_ids=ids).logits[0].float(), head_of(model).logits(hidden)
    tolerance = 8 * torch.finfo(hidden.dtype).eps * expected.abs().max()
    return found.shape == expected.shape and bool((found - expected).abs().max() <= tolerance)
