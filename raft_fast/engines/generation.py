"""Sampling with transformers: `generate`, every row by random numbers of its own."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria, StoppingCriteriaList

from raft_fast.models.chat import Chat
from raft_fast.models.packing import mixed_precision


@torch.no_grad()  # not inference mode: there autocast would cast every weight again for every token
def generate_ids(model: Any, chat: Chat, prompts: Sequence[Sequence[int]], max_new_tokens: int,
                 temperature: float, seeds: Sequence[int], stopping: Sequence[StoppingCriteria] = (),
                 sampler: "Sampler | None" = None) -> list[list[int]]:
    """A completion for each prompt: token ids up to and including the first eos, all known to the tokenizer.

    Row i is drawn with random numbers that depend on seeds[i] alone; temperature 0 is greedy. Where
    `stopping` ends the batch early, rows without an eos are incomplete. `sampler` instead of one's own."""
    if sampler is None and temperature > 0:
        sampler = Sampler(temperature, seeds, max_new_tokens, model.device)
    width = max(map(len, prompts))
    ids = torch.tensor([[chat.pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    config = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens,
                              eos_token_id=sorted(chat.eos_ids), pad_token_id=chat.pad_id,
                              suppress_tokens=lacking(model, chat))
    with own_settings(model), mixed_precision(model):
        drawn = model.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device),
                               generation_config=config, logits_processor=[sampler] if sampler else [],
                               stopping_criteria=StoppingCriteriaList(stopping))
    rows = drawn[:, width:].tolist()
    ends = [next((at for at, token in enumerate(row) if token in chat.eos_ids), len(row)) for row in rows]
    return [row[: end + 1] for row, end in zip(rows, ends, strict=True)]


def sample_ids(model: Any, chat: Chat, prompts: Sequence[Sequence[int]], max_new_tokens: int,
               temperature: float, seeds: Sequence[int]) -> list[tuple[list[int], list[float]]]:
    """As `generate_ids`, temperature above 0: token ids and each one's log-probability in nats under
    softmax(logits / temperature) over the ids that may be sampled."""
    sampler = Sampler(temperature, seeds, max_new_tokens, model.device, record=True)
    drawn = generate_ids(model, chat, prompts, max_new_tokens, temperature, seeds, sampler=sampler)
    logprobs = torch.stack(sampler.logprobs, dim=1).tolist()
    return [(ids, row[: len(ids)]) for ids, row in zip(drawn, logprobs, strict=True)]


def lacking(model: Any, chat: Chat) -> list[int] | None:
    """Ids of the model that the tokenizer lacks, which `generate` never samples."""
    return chat.lacking(model.get_output_embeddings().weight.shape[0]) or None


@contextmanager
def own_settings(model: Any) -> Iterator[None]:
    """Evaluation mode, and none of the model's generation defaults (penalties, suppressed tokens): they are
    merged into every config, and a trajectory must come from p_S itself."""
    training, defaults = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = defaults
        model.train(training)


class Sampler(LogitsProcessor):
    """Turns greedy choice into an exact sample: the token at which the cumulative softmax(logits / T) passes
    a uniform number. Its sum is in float64: in float32 it would lose rare tokens of a large vocabulary.

    Row i's numbers come from seeds[i] alone, and are drawn beforehand: on a GPU each would be a launch. With
    `record`, `logprobs` has a float32 [rows] a position: log-probabilities of the drawn tokens."""

    def __init__(self, temperature: float, seeds: Sequence[int], positions: int, device: torch.device,
                 record: bool = False) -> None:
        self.temperature, self.record = temperature, record
        self.logprobs: list[torch.Tensor] = []
        rows = [torch.rand(positions, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
                for seed in seeds]
        self.uniform = iter(torch.stack(rows, dim=1).to(device))  # [rows, 1] a position

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [rows, V] of which the drawn token alone is above -inf."""
        chosen = self.draw((scores.float() / self.temperature).softmax(1))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)

    def draw(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Token ids [rows, 1] for the next position."""
        passed = probabilities.cumsum(1, dtype=torch.float64)
        # relative to the whole sum, which is 1 but for rounding; clamped for the same reason
        chosen = torch.searchsorted(passed, next(self.uniform) * passed[:, -1:], right=True)
        chosen.clamp_(max=probabilities.shape[1] - 1)
        if self.record:
            self.logprobs.append(probabilities.gather(1, chosen).squeeze(1).log())
        return chosen


class Interrupt(StoppingCriteria):
    """Ends a batch at the next token once `stopped` is set."""

    def __init__(self, stopped: threading.Event) -> None:
        self.stopped = stopped

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        """Whether each row is done, bool [rows]."""
        return torch.full((len(input_ids),), self.stopped.is_set(), device=input_ids.device)
