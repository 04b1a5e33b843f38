"""Sampling from transformers' models, every row by random numbers of its own. A row that ends leaves the
batch, and its place goes to the next prompt: nothing waits for the longest row."""

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from raft_kernels import ordered_weights
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from raft_fast.models.chat import Chat
from raft_fast.models.packing import is_mixed, mixed_precision

BLOCK = 256  # neighbours in the vocabulary that a draw sums together
REFILL = 4  # prompts join once a quarter of the places is free: one costs nearly what many cost


@dataclass
class Drawn:
    """Of the prompt at `index`: token ids up to and including the first eos, and their log-probabilities (in
    nats, of softmax(logits / temperature) over the ids that may be sampled; at temperature 0 zeros)."""

    index: int
    prompt: Sequence[int]
    uniform: list[float]  # its random numbers, one a position
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False


def draw_ids(model: Any, chat: Chat, prompts: Sequence[Sequence[int]], max_new_tokens: int,
             temperature: float, seeds: Sequence[int], rows: int, tokens: int,
             stopped: threading.Event | None = None) -> Iterator[Drawn]:
    """A completion for each prompt, in the order in which they end; temperature 0 is greedy.

    A draw depends on its prompt and seed alone, but for rounding. At most `rows` are under way, of `tokens`
    tokens with padding and the longest completions. Once `stopped` is set nothing more comes."""
    stopped, waiting = stopped or threading.Event(), list[Drawn]()
    for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        dice = torch.rand(max_new_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        waiting.append(Drawn(index, prompt, dice.tolist()))
    waiting.sort(key=lambda row: -len(row.prompt))  # the most memory is needed first, and little is padded
    batch = Batch(model, chat, max_new_tokens, temperature)
    copied = 2 * model.num_parameters() * model.dtype.itemsize < psutil.virtual_memory().available
    with ordered_weights(model, rows) if copied and not is_mixed(model) else nullcontext():
        while (waiting or batch.rows) and not stopped.is_set():
            ended: list[Drawn] = []
            # no_grad, not inference mode: there autocast would cast every weight again for every token
            with torch.no_grad(), evaluating(model), mixed_precision(model):
                while not ended and not stopped.is_set():
                    longest = max(len(row.prompt) for row in (*batch.rows, *waiting[:1])) + max_new_tokens
                    places = max(1, min(rows, tokens // longest))
                    free = places - len(batch.rows)
                    if waiting and (not batch.rows or (not batch.fixed and free >= max(1, places / REFILL))):
                        batch.join(waiting[:free])
                        del waiting[:free]
                    ended = batch.step()
            yield from ended


class Batch:
    """Rows under way: each is a row of `logits_RV`, of the next token, and of what is `kept`: the cache, and
    mask and number of the positions, padded on the left. fixed: the cache has layers of other kinds than
    keys and values: rows stay until all have ended."""

    def __init__(self, model: Any, chat: Chat, max_new_tokens: int, temperature: float) -> None:
        self.model, self.chat, self.longest, self.temperature = model, chat, max_new_tokens, temperature
        self.never = chat.lacking(model.get_output_embeddings().weight.shape[0])
        self.takes = {*inspect.signature(model.forward).parameters}
        self.fixed = not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)
                             for layer in DynamicCache(config=model.config).layers)
        self.rows: list[Drawn] = []
        self.kept: dict[str, Any] = {}
        self.logits_RV = torch.empty(0)

    def join(self, rows: Sequence[Drawn]) -> None:
        """Read the prompts of further rows."""
        width = max(len(row.prompt) for row in rows)
        left = [width - len(row.prompt) for row in rows]
        ids = [[self.chat.pad_id] * pad + list(row.prompt) for pad, row in zip(left, rows, strict=True)]
        mask_RS = torch.tensor([[0] * pad + [1] * (width - pad) for pad in left]).to(self.model.device)
        cache: Any = DynamicCache(config=self.model.config if self.fixed else None)
        new = {"attention_mask": mask_RS, "position_ids": (mask_RS.cumsum(1) - 1).clamp_(min=0),
               "cache_params" if "cache_params" in self.takes else "past_key_values": cache,
               "use_cache": True}
        logits_RV = self._read(torch.tensor(ids).to(self.model.device), new, first=True)
        if self.rows:
            for name in ("attention_mask", "position_ids"):
                new[name] = _stacked(self.kept[name], new[name], 1)
            for own, layer in zip(self.kept["past_key_values"].layers, cache.layers, strict=True):
                layer.keys, layer.values = (_stacked(own.keys, layer.keys, 2),
                                            _stacked(own.values, layer.values, 2))
            logits_RV = torch.cat([self.logits_RV, logits_RV])
        self.rows, self.kept, self.logits_RV = [*self.rows, *rows], new, logits_RV

    def step(self) -> list[Drawn]:
        """Draw a token for every row, and read those of rows that go on; returns the rows that have ended."""
        uniform = torch.tensor([row.uniform[len(row.ids) - row.ended] for row in self.rows],
                               dtype=torch.float64)
        chosen_R, logprobs_R = draw(self.logits_RV, self.temperature, uniform.to(self.logits_RV.device))
        ended = []
        for row, token, logprob in zip(self.rows, chosen_R.tolist(), logprobs_R.tolist(), strict=True):
            if not row.ended:
                row.ids.append(token)
                row.logprobs.append(logprob)
                row.ended = token in self.chat.eos_ids or len(row.ids) == self.longest
                ended += [row] * row.ended
        stay = [at for at, row in enumerate(self.rows) if not row.ended]
        if not stay:
            self.rows = []
        else:
            if ended and not self.fixed:
                chosen_R = chosen_R[stay]
                self._keep(stay)
            self.logits_RV = self._read(chosen_R[:, None], self.kept)
        return ended

    def _read(self, ids: Tensor, kept: dict[str, Any], first: bool = False) -> Tensor:
        """The next token's logits, float32 [R, V], -inf where the tokenizer has no token; updates `kept`."""
        given = {name: value for name, value in kept.items() if name in self.takes or name != "position_ids"}
        less = {"logits_to_keep": 1} if "logits_to_keep" in self.takes else {}
        read = self.model(**self.model.prepare_inputs_for_generation(
            ids, next_sequence_length=None if first else 1, is_first_iteration=first, **given, **less))
        kept.update(self.model._update_model_kwargs_for_generation(read, kept))
        logits_RV: Tensor = read.logits[:, -1].float()
        return logits_RV.index_fill_(1, torch.tensor(self.never, device=ids.device), -torch.inf) \
            if self.never else logits_RV

    def _keep(self, places: list[int]) -> None:
        """These rows alone, without the positions that none of them has."""
        self.rows = [self.rows[place] for place in places]
        unread = int(self.kept["attention_mask"][places].argmax(1).min())
        for name in ("attention_mask", "position_ids"):
            self.kept[name] = self.kept[name][places, unread:]
        for layer in self.kept["past_key_values"].layers:
            layer.keys, layer.values = (part[places, :, unread:] for part in (layer.keys, layer.values))


def _stacked(above: Tensor, below: Tensor, axis: int) -> Tensor:
    """Rows over rows, padded on the left of `axis` to the same width."""
    width, after = max(above.shape[axis], below.shape[axis]), (0, 0) * (above.ndim - 1 - axis)
    return torch.cat([F.pad(part, (*after, width - part.shape[axis], 0)) for part in (above, below)])


def draw(logits_RV: Tensor, temperature: float, uniform_R: Tensor) -> tuple[Tensor, Tensor]:
    """(ids, log-probabilities) [R]: the token at which the cumulative softmax(logits / temperature) passes
    the row's number; at temperature 0 the likeliest. logits_RV: float32.

    Sums, of blocks and then within one, are in float64: float32 loses rare tokens of a large vocabulary."""
    if temperature == 0:
        return logits_RV.argmax(1), torch.zeros(len(logits_RV))
    scaled_RV = logits_RV / temperature
    weights_RV = scaled_RV.sub_(scaled_RV.amax(1, keepdim=True)).exp_()
    blocks = F.pad(weights_RV, (0, -weights_RV.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    sums = blocks.sum(2, dtype=torch.float64).cumsum(1)
    block, number = _passed(sums, uniform_R[:, None] * sums[:, -1:])
    inside = blocks[torch.arange(len(blocks), device=blocks.device), block[:, 0]].double().cumsum(1)
    at, _ = _passed(inside, number - F.pad(sums, (1, 0)).gather(1, block))
    chosen = block * BLOCK + at
    return chosen[:, 0], (weights_RV.gather(1, chosen) / sums[:, -1:]).log()[:, 0]


def _passed(sums: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """(the first of ascending sums [R, N] above the number [R, 1], that number), kept below the last sum."""
    number = torch.minimum(number, torch.nextafter(sums[:, -1:], sums.new_zeros(())))
    return torch.searchsorted(sums, number, right=True), number


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode while the block runs."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
