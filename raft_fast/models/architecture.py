"""What differs between models of transformers: depth, positions, packing, what is not for text, the head."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from raft_fast.run.errors import UserError

PACKED = "packed"  # our attention, see attention.py
PACKING = {PACKED, "flash_attention_2", "flash_attention_3", "flash_attention_4"}
LOGIT_ROWS = 256  # tokens whose logits over the vocabulary are alive at once, where all of them are needed


def text_config(model: Any) -> Any:
    """The configuration of the language model: models that see images too keep it inside another."""
    return model.config.get_text_config()


def positions(model: Any) -> float:
    """The most tokens of a sequence; infinity if the model has no limit (ALiBi, state spaces)."""
    config = text_config(model)
    return (getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
            or math.inf)


def rope_switches(model: Any) -> list[int]:
    """Lengths at which a sequence's rotary frequencies change, ascending. transformers takes them from the
    longest sequence of a pass: one of two sets ("longrope"), or scaled by its length ("dynamic")."""
    config = text_config(model)
    given = getattr(config, "rope_parameters", None) or {}
    found = set()
    for one in [given] if "rope_type" in given else [one for one in given.values() if isinstance(one, dict)]:
        if one.get("rope_type") == "longrope":
            found.add(int(one["original_max_position_embeddings"]))
        elif "dynamic" in one.get("rope_type", ""):
            found.add(int(config.max_position_embeddings) - 1)  # only below it are they set back
    return sorted(found)


def packs(model: Any) -> bool:
    """Whether a row of this model may hold several sequences."""
    return model.config._attn_implementation in PACKING


def shares_prompts(model: Any) -> bool:
    """Whether sequences of a row may share what their prompts begin with: flash-attn cannot choose keys."""
    return model.config._attn_implementation == PACKED and getattr(model, "shares_prompts", False)


def layers(model: Any) -> torch.nn.ModuleList:
    """The decoder's layers, whatever it calls them ("layers", "h", "blocks")."""
    depth = text_config(model).num_hidden_layers
    return next(part for part in model.get_decoder().children()
                if isinstance(part, torch.nn.ModuleList) and len(part) == depth)


def beside_text(model: Any) -> list[str]:
    """Names of the outermost modules that text never passes through (a vision tower)."""
    text = {id(weight) for part in (model.get_decoder(), model.get_output_embeddings())
            for weight in part.parameters()}

    def without(module: Any, prefix: str) -> Iterator[str]:
        for name, child in module.named_children():
            own = {id(weight) for weight in child.parameters()}
            if own and not own & text:
                yield prefix + name
            elif own - text:
                yield from without(child, f"{prefix}{name}.")

    return list(without(model, ""))


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
    """The head of a causal language model of transformers."""
    layer, config = model.get_output_embeddings(), text_config(model)
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    return Head(layer.weight, getattr(layer, "bias", None), float(scale),
                getattr(config, "final_logit_softcapping", None))


@torch.no_grad()
def check_head(model: Any, name: str) -> None:
    """Raise UserError if a model does more between hidden states and logits than `Head` knows, or if decoder
    and head cannot be separated."""
    ids = torch.arange(1, 9, device=model.device)[None]
    try:
        hidden = model.get_decoder()(input_ids=ids).last_hidden_state[0]
        wanted, found = model(input_ids=ids).logits[0].float(), head_of(model).logits(hidden)
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"--model {name}: {type(model).__name__} has no decoder with a head behind it "
                        f"({error}); this architecture is not supported") from error
    tolerance = 8 * torch.finfo(hidden.dtype).eps * wanted.abs().max()
    if found.shape != wanted.shape or not (found - wanted).abs().max() <= tolerance:
        raise UserError(f"--model {name}: its logits are not (hidden @ weight.T + bias) * scale with a "
                        "soft-cap; this architecture is not supported")
