"""vLLM in this process: `vllm:MODEL`. The usual way to use vLLM is its server, see `openai`.

Written against `LLM.chat`, `SamplingParams` and `RequestOutput` as vLLM's repository has them at commits
0012cf6 (entrypoints/llm.py) and 003d3ee (outputs.py); it has not been run with vLLM itself.
"""

import itertools
import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from raft_fast.data.texts import Message
from raft_fast.engines.base import Price, Reply, Sampling, hand_over, stable_seed
from raft_fast.engines.replies import ending, not_whole
from raft_fast.engines.score import SCORING, SECOND_SCORING, as_score, second_attempt
from raft_fast.models.thinking import strip_thinking
from raft_fast.run.errors import UserError
from raft_fast.run.options import EngineOptions

READ_AHEAD = 1024  # conversations that vLLM schedules together; replies come once all of them are done

Asked = list[tuple[int, list[Message]]]


class VLLMEngine:
    """A model in vLLM; see `engines.base.Engine` for the protocol.

    Every request has a seed of its own, from (sampling.seed, the conversation); vLLM's results may still
    depend on what else is in a batch, since its kernels round differently for other sizes.
    """

    price: Price | None = None

    def __init__(self, llm: Any, identity: str, template_kwargs: dict[str, Any] | None = None) -> None:
        self.llm, self.identity, self.template_kwargs = llm, identity, template_kwargs or None
        self._turn = threading.Lock()

    @classmethod
    def connect(cls, spec: str, options: EngineOptions | None = None) -> "VLLMEngine":
        """The folder or hub name after "vllm:", on the GPUs that vLLM finds. Raises UserError without
        vLLM."""
        model = spec.removeprefix("vllm:")
        kwargs = (options or EngineOptions()).of(spec, model).chat_template_kwargs
        try:
            from vllm import LLM
        except ImportError as error:
            raise UserError(f"{spec}: vLLM is not installed: pip install vllm") from error
        try:
            llm = LLM(model=model, trust_remote_code=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{spec}: cannot be loaded: {error}") from error
        told = f" {json.dumps(kwargs, sort_keys=True)}" if kwargs else ""
        return cls(llm, f"{spec}{told}", kwargs)

    def generate(
        self, conversations: Iterable[list[Message]], sampling: Sampling
    ) -> Iterator[tuple[int, Reply]]:
        """In windows of READ_AHEAD conversations, in order."""
        numbered = enumerate(conversations)
        while asked := list(itertools.islice(numbered, READ_AHEAD)):
            yield from hand_over(self._answer(asked, sampling).items())

    def score(self, conversations: Iterable[list[Message]]) -> Iterator[tuple[int, Reply]]:
        """Read from the reply's text, as from a server; one second chance with another seed."""
        numbered = enumerate(conversations)
        while asked := list(itertools.islice(numbered, READ_AHEAD)):
            first = {index: as_score(reply) for index, reply in self._answer(asked, SCORING).items()}
            yield from hand_over((index, one) for index, one in first.items() if one.error is None)
            again = [(index, messages) for index, messages in asked if first[index].error is not None]
            yield from hand_over((index, second_attempt(first[index], reply))
                                 for index, reply in self._answer(again, SECOND_SCORING).items())

    def _answer(self, asked: Asked, sampling: Sampling) -> dict[int, Reply]:
        from vllm import SamplingParams

        if not asked:
            return {}
        messages = [one for _, one in asked]
        wanted = [SamplingParams(temperature=sampling.temperature, max_tokens=sampling.max_new_tokens,
                                 seed=stable_seed(sampling.seed, one)) for one in messages]
        for one in wanted:
            one.skip_special_tokens = False  # they may delimit a thought from the answer
        with self._turn:
            start = time.perf_counter()
            answers = self.llm.chat(messages, wanted, use_tqdm=False,
                                    chat_template_kwargs=self.template_kwargs)
            seconds = (time.perf_counter() - start) / len(asked)
        return {index: _read(answer, seconds) for (index, _), answer in zip(asked, answers, strict=True)}


def _read(answer: Any, seconds: float) -> Reply:
    """A vLLM RequestOutput as a reply."""
    drawn = answer.outputs[0]
    spent = Reply("", prompt_tokens=len(answer.prompt_token_ids or ()),
                  completion_tokens=len(drawn.token_ids), seconds=seconds)
    if (how := ending(drawn.finish_reason)) not in ("stop", "length"):
        return replace(spent, error=not_whole(drawn.finish_reason))
    return replace(spent, text=strip_thinking(drawn.text), finish_reason=how)
