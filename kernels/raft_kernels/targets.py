"""The teacher's side of the loss: K ids and K log-probabilities a token (Eq. 8-9)."""

from dataclasses import InitVar, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import ops, reference, saved_targets
from .checks import (
    bad,
    check_epilogue,
    check_float_tensor,
    check_head,
    check_k,
    check_positive,
    check_vocab_size,
    choose_backend,
    compute_dtype,
    is_int,
    savable,
)
from .parallel import whole


@dataclass(frozen=True, eq=False)
class TopKTargets:
    """The teacher's K most likely tokens at each position.

    ids: [..., K] int64, no repeats in a row.
    logprobs: [..., K] float32 (float64 from float64 inputs), best first: log softmax(logits / T),
        over the full vocabulary where `over_vocabulary`, else over the K ids.
    temperature: T of Eq. 8; the loss softens the student by the same T.
    vocab_size: the ids are all below it; None takes the largest id + 1.

    Raises ValueError where shapes, dtypes, ids or the temperature are off. `checked=True` skips
    the checks that read ids (and so would wait for a GPU); it is for ids right by construction."""

    ids: Tensor
    logprobs: Tensor
    temperature: float
    over_vocabulary: bool = True
    vocab_size: int | None = None
    checked: InitVar[bool] = False

    def __post_init__(self, checked: bool) -> None:
        if not checked:
            self._check()
        # autograd could not save tensors that a teacher made in inference mode
        object.__setattr__(self, "ids", savable(self.ids))
        object.__setattr__(self, "logprobs", savable(self.logprobs))

    def _check(self) -> None:
        check_positive("temperature", self.temperature)
        if not isinstance(self.ids, Tensor) or self.ids.dtype != torch.int64:
            was = getattr(self.ids, "dtype", type(self.ids).__name__)
            raise bad("ids", f"of dtype {was}", "a torch.Tensor of int64")
        check_float_tensor("logprobs", self.logprobs)
        if self.logprobs.dtype not in (torch.float32, torch.float64):
            raise bad("logprobs", f"of dtype {self.logprobs.dtype}", "float32 or float64")
        if self.ids.dim() < 1 or self.ids.shape != self.logprobs.shape:
            raise bad("logprobs", f"of shape {list(self.logprobs.shape)}",
                      f"of the shape [..., K] of ids, which was {list(self.ids.shape)}")
        if self.logprobs.device != self.ids.device:
            raise bad("logprobs", f"on {self.logprobs.device}",
                      f"on the device of ids, {self.ids.device}")
        if self.k < 2:
            raise bad("k", self.k, "at least 2 (at K = 1 the renormalised KL is identically 0)")
        object.__setattr__(self, "vocab_size", _checked_vocab_size(self.ids, self.vocab_size))

    @property
    def k(self) -> int:
        """K, the number of ids kept a token."""
        return self.ids.shape[-1]

    @property
    def mass(self) -> Tensor | None:
        """[...] the teacher's probability (at T) on the K ids; None where it is unknown."""
        return self.logprobs.exp().sum(-1) if self.over_vocabulary else None

    def __getitem__(self, index: Any) -> "TopKTargets":
        """The targets of some of the tokens: any index of the leading dimensions."""
        return replace(self, ids=self.ids[index], logprobs=self.logprobs[index], checked=True)

    def to(self, device: torch.device | str) -> "TopKTargets":
        """The same targets on another device."""
        return replace(
            self, ids=self.ids.to(device), logprobs=self.logprobs.to(device), checked=True
        )

    @classmethod
    def from_logprobs(
        cls,
        ids: Any,
        logprobs: Any,
        source_temperature: float = 1.0,
        temperature: float = 1.5,
        vocab_size: int | None = None,
    ) -> "TopKTargets":
        """Targets from the top log-probs a server (vLLM, SGLang) returns; tensors or nested lists.

        ids, logprobs: [..., K], in any order; log-probs at `source_temperature`, -inf where the
        server gave fewer (leave out tokens of which it gave none). At another `temperature` the
        full normaliser is unknown: log-probs are then renormalised on the K ids, which is all the
        loss uses, and `mass` is None."""
        check_positive("source_temperature", source_temperature)
        check_positive("temperature", temperature)
        ids, logprobs = torch.as_tensor(ids), torch.as_tensor(logprobs)
        if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
            raise bad("ids", f"of dtype {ids.dtype}", "of an integer dtype")
        check_float_tensor("logprobs", logprobs)
        ids, logprobs = ids.long(), logprobs.to(compute_dtype(logprobs))
        if ids.shape != logprobs.shape or ids.dim() < 1:
            raise bad("logprobs", f"of shape {list(logprobs.shape)}",
                      f"of the shape [..., K] of ids, which was {list(ids.shape)}")
        _check_logprobs(logprobs)
        same = source_temperature == temperature
        if not same:
            logprobs = torch.log_softmax(logprobs * (source_temperature / temperature), -1)
        ids, by_id = ids.sort(dim=-1)
        logprobs, order = logprobs.gather(-1, by_id).sort(dim=-1, descending=True, stable=True)
        return cls(ids.gather(-1, order), logprobs, float(temperature), same, vocab_size)

    def save(self, path: str | Path, logprob_dtype: torch.dtype = torch.float16) -> None:
        """Write a safetensors file, whole or not at all.

        Ids take the smallest integer that fits. Log-probs are float16 relative to the row's
        maximum, which is kept in float32 (relative error 2^-11 of the distance to the maximum, at
        most 65504), or with logprob_dtype=torch.float32 exact (float64 ones are rounded to it).
        Rows that are not finite keep what is finite in them, -inf and NaN."""
        saved_targets.write(path, self.ids, self.logprobs, self.temperature, self.over_vocabulary,
                            self.vocab_size, logprob_dtype)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "TopKTargets":
        """Read what `save` wrote, checking all of it again.

        Raises ValueError naming the file and what is wrong with it for any other file."""
        try:
            return cls(**saved_targets.read(path, device))
        except ValueError as error:
            if str(error).startswith("path was"):
                raise
            raise saved_targets.unreadable(path, error) from error


def topk_targets(
    hidden: Tensor,
    weight: Tensor,
    k: int = 512,
    temperature: float = 1.5,
    *,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    vocab_size: int | None = None,
    backend: str | None = None,
) -> TopKTargets:
    """The teacher's K most likely tokens at every position, without its full logits (Eq. 8-9).

    hidden: [..., D] the teacher's last hidden states; weight: [V, D] its output head, bias [V].
        float32, bfloat16 or float16 (float64 on the torch and reference backends); float32
        means IEEE. Logits are (hidden @ weight.T + bias) * logit_scale, then, where softcap is
        given, softcap * tanh(logits / softcap).
    vocab_size: only the first vocab_size rows of weight are real tokens (the rest is padding).
    backend: None (Triton on a GPU, torch elsewhere), "torch", "triton" or "reference".

    Returns TopKTargets: ids [..., K] int64, logprobs [..., K] float32 = log softmax(logits / T)
    over the full vocabulary, best first, ties to the lower id. No gradient flows.

    Raises ValueError naming the argument, what it was and what it must be."""
    hidden, weight = whole(hidden), whole(weight)
    bias = None if bias is None else whole(bias)
    check_head(hidden, weight, bias)
    temperature = check_positive("temperature", temperature)
    logit_scale, softcap = check_epilogue(logit_scale, softcap)
    vocab = check_vocab_size(vocab_size, weight.shape[0])
    k = check_k(k, vocab)
    backend = choose_backend(backend, hidden, weight, k)
    weight, bias = weight.detach()[:vocab], None if bias is None else bias.detach()[:vocab]
    hidden_ND = hidden.detach().reshape(-1, hidden.shape[-1])
    if backend == "reference":
        dtype = compute_dtype(hidden, weight)
        bias = None if bias is None else bias.to(dtype)
        logits_NV = reference.logits(
            hidden_ND.to(dtype), weight.to(dtype), bias, logit_scale, softcap
        )
        ids_NK, logprobs_NK = reference.select(logits_NV, k, temperature)
    else:
        ids_NK, top_NK, log_sum_N = ops.select(
            hidden_ND, weight, bias, k, temperature, logit_scale, softcap, backend
        )
        logprobs_NK = (top_NK - top_NK[:, :1]) / temperature - log_sum_N.unsqueeze(-1)
    shape = (*hidden.shape[:-1], k)
    return TopKTargets(
        ids_NK.view(shape), logprobs_NK.view(shape), temperature, vocab_size=vocab, checked=True
    )


def _check_logprobs(logprobs: Tensor) -> None:
    """No NaN, no +inf, no row of -inf alone: such a row is no distribution."""
    for wrong, was in (
        (logprobs.isnan() | logprobs.isposinf(), "NaN or inf"),
        (logprobs.isneginf().all(-1, keepdim=True).expand_as(logprobs), "-inf for all K ids"),
    ):
        if wrong.any():
            raise bad("logprobs", f"{was} in the row at {wrong.nonzero()[0][:-1].tolist()}",
                      "below inf everywhere and above -inf for at least one id in every row")


def _checked_vocab_size(ids: Tensor, vocab_size: int | None) -> int:
    """Range and repeats, read from the ids themselves."""
    if vocab_size is not None and (not is_int(vocab_size) or vocab_size < 0):
        raise bad("vocab_size", repr(vocab_size), "an int of at least 0, or None")
    if not ids.numel():
        return vocab_size or 0
    lowest, highest = int(ids.min()), int(ids.max())
    if vocab_size is None:
        vocab_size = highest + 1
    if lowest < 0 or highest >= vocab_size:
        limit = f"from 0 to {vocab_size - 1}" if highest >= vocab_size else "at least 0"
        raise bad("ids", f"from {lowest} to {highest}", limit)
    ordered = ids.sort(dim=-1).values
    repeated = ordered[..., 1:] == ordered[..., :-1]
    if repeated.any():
        raise bad("ids", f"repeated within a row (id {int(ordered[..., 1:][repeated][0])})",
                  "different from each other in every row")
    return vocab_size
