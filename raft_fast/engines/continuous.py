"""In-process generation with transformers' continuous batching: for a GPU, `--generation continuous`.

A finished reply's place is taken by the next prompt at once, where `HFEngine` waits for a batch's longest.
But noise comes from one stream for whatever is in flight, so a sampled reply depends on what else was asked
and in which order, and running the same command again draws different ones. Greedy replies and scores do not
change. The journal keeps what was drawn, so a resumed run is still consistent with itself.
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from raft_fast.data.texts import Message
from raft_fast.engines.base import Reply, Sampling, hand_over
from raft_fast.engines.generation import Call, lacking, own_settings
from raft_fast.engines.hf import BATCH_TOKENS, HFEngine
from raft_fast.models.architecture import PACKED
from raft_fast.models.chat import Chat

SEED_BITS = 31


class ContinuousEngine(HFEngine):
    """As `HFEngine`, with a scheduler instead of batches; READ_AHEAD * batch_size prompts at a time.

    `settings` is a transformers ContinuousBatchingConfig; by default the free memory decides.
    """

    def __init__(
        self, model: Any, chat: Chat, identity: str, batch_size: int = 32, batch_tokens: int = BATCH_TOKENS,
        settings: Any = None,
    ) -> None:
        super().__init__(model, chat, f"{identity} continuous", batch_size, batch_tokens)
        self.settings = settings

    def _generate(
        self, conversations: Iterable[list[Message]], sampling: Sampling, call: Call
    ) -> Iterator[tuple[int, Reply]]:
        """Replies come in order once all prompts read ahead are answered; an interrupt waits for that too."""
        for asked, refused in self._read_ahead(conversations):
            yield from hand_over(refused)
            if not asked:
                continue
            prompts = [prompt for _, _, prompt in asked]
            with self._turn, call.drawing(len(prompts), sampling.max_new_tokens):
                answers = draw_continuously(self.model, self.chat, prompts, sampling, self.settings)
            yield from hand_over(
                (index, self._read_answer(answer, len(prompt), call.seconds))
                for (index, _, prompt), answer in zip(asked, answers, strict=True))

    def _read_answer(self, answer: Any, prompt_tokens: int, seconds: float) -> Reply:
        if answer is None or answer.error is not None:
            why = "its scheduler stopped" if answer is None else answer.error
            return Reply("", error=f"continuous batching gave no reply: {why}")
        return self._read(list(answer.generated_tokens), prompt_tokens, seconds)


@torch.no_grad()
def draw_continuously(model: Any, chat: Chat, prompts: list[list[int]], sampling: Sampling,
                      settings: Any = None, logprobs: bool = False) -> list[Any]:
    """A GenerationOutput of transformers for each prompt, None if it has none.

    `settings` is a ContinuousBatchingConfig, whose seed and return_logprobs are set here. The scheduler's
    thread knows no autocast: the model computes in its own dtype.
    """
    from transformers import ContinuousBatchingConfig

    settings = copy.copy(settings) or ContinuousBatchingConfig()
    settings.seed, settings.return_logprobs = sampling.seed % (1 << SEED_BITS), logprobs
    random = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
    config = GenerationConfig(max_new_tokens=sampling.max_new_tokens, pad_token_id=chat.pad_id,
                              suppress_tokens=lacking(model, chat), eos_token_id=sorted(chat.eos_ids),
                              **(random if sampling.temperature > 0 else {"do_sample": False}))
    with own_settings(model), _paged(model):
        found = list(model.generate_batch(prompts, generation_config=config,
                                          continuous_batching_config=settings).values())
    return found if len(found) == len(prompts) else [None] * len(prompts)


@contextmanager
def _paged(model: Any) -> Iterator[None]:
    """Without our "packed" attention for a while: the scheduler knows transformers' own by name."""
    own = model.config._attn_implementation
    if own == PACKED:
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(own)
