"""Generation in-process with transformers: batched by length, repeatable draw by draw."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from raft_fast.data.texts import Message, trim
from raft_fast.engines import UNRENDERED, Conversations, Replies, Reply, Sampling, stable_seed
from raft_fast.engines.generation import draw_ids
from raft_fast.models.architecture import head_of
from raft_fast.models.chat import Chat, View
from raft_fast.models.packing import buckets, completion_hidden, completion_ids
from raft_fast.models.thinking import strip_thinking
from raft_fast.run.errors import UserError

BATCH_TOKENS = 32768  # prompt and reply tokens of a batch, padding included: what its cache holds

Asked = list[tuple[int, list[Message], list[int]]]  # index, conversation, prompt ids


class HFEngine:
    """A model of transformers as an engine; see `Engine` for the protocol.

    At most `batch_size` conversations are under way at once, and at most BATCH_TOKENS tokens (prompts with
    their padding, and the longest replies they may get)."""

    def __init__(self, model: Any, chat: Chat, identity: str, batch_size: int = 32) -> None:
        self.model, self.chat, self.batch_size = model, chat, batch_size
        told = f" {json.dumps(chat.template_kwargs, sort_keys=True)}" if chat.template_kwargs else ""
        self.identity = f"{identity}{told}"
        self._special = {id_: token.content for id_, token in chat.tokenizer.added_tokens_decoder.items()
                         if token.special}
        self._turn = threading.Lock()  # of threads that share the model
        self._stopped = threading.Event()  # of all calls that are not over

    def interrupt(self) -> None:
        """See `Engine`."""
        stopped, self._stopped = self._stopped, threading.Event()
        stopped.set()

    def generate(self, conversations: Conversations, sampling: Sampling) -> Replies:
        """A reply depends on (conversation, sampling) alone, and by rounding on what else is in its batch."""
        stopped = self._stopped

        def drawn(asked: Asked) -> Replies:
            seeds = [stable_seed(sampling.seed, messages) for _, messages, _ in asked]
            for one in draw_ids(self.model, self.chat, [prompt for *_, prompt in asked],
                                sampling.max_new_tokens, sampling.temperature, seeds, self.batch_size,
                                BATCH_TOKENS, stopped):
                yield asked[one.index][0], self._read(one.ids, len(one.prompt))

        return self._each(conversations, drawn, stopped)

    def score(self, conversations: Conversations) -> Replies:
        """The expected digit over 9, from the probabilities of the ten digits as next token."""
        digits = [self.chat.tokenizer(digit, add_special_tokens=False).input_ids for digit in "0123456789"]
        if len({tuple(ids[:-1]) for ids in digits}) != 1:  # one common prefix (a space mark) is fine
            return ((index, Reply("", error="this model's tokenizer has no single token for each digit"))
                    for index, _ in enumerate(conversations))
        choices = torch.tensor([ids[-1] for ids in digits], device=self.model.device)
        scale, stopped = torch.arange(10, device=self.model.device) / 9, self._stopped

        @torch.inference_mode()
        def read(batch: Asked) -> list[float]:
            # a one-token completion makes the last prompt token the predicting position
            views = [View(prompt, [self.chat.pad_id]) for *_, prompt in batch]
            hidden = completion_hidden(self.model, views, self.chat.pad_id)
            shares = head_of(self.model).logits(hidden)[:, choices].softmax(-1)
            return [*(shares * scale).sum(-1).tolist()]

        def scored(asked: Asked) -> Replies:
            for chosen in buckets([len(prompt) for *_, prompt in asked], BATCH_TOKENS, self.batch_size):
                if stopped.is_set():
                    return
                batch = [asked[place] for place in chosen]
                for (index, _, prompt), score in zip(batch, read(batch), strict=True):
                    yield index, Reply("", "stop", len(prompt), score=score)

        return self._each(conversations, scored, stopped)

    def _each(self, conversations: Conversations, work: Callable[[Asked], Replies],
              stopped: threading.Event) -> Replies:
        """What `work` replies, after errors of those conversations that the template refuses. Threads take
        turns. Raises KeyboardInterrupt once `stopped` is set, after the replies that had ended."""
        asked: Asked = []
        for index, messages in enumerate(conversations):
            try:
                asked.append((index, messages, self.chat.student_prompt(messages)))
            except UserError as error:
                yield index, Reply("", error=f"{UNRENDERED} ({error})")
        with self._turn:
            yield from work(asked)
        if stopped.is_set():
            raise KeyboardInterrupt

    def _read(self, ids: Sequence[int], prompt_tokens: int) -> Reply:
        """The reply without thoughts. Special tokens inside of it may delimit these, so they go last."""
        ended = bool(ids) and ids[-1] in self.chat.eos_ids
        if self._special.keys().isdisjoint(ids[:-1]):
            text = strip_thinking(self.chat.decode(ids))
        else:
            text = strip_thinking(self.chat.decode_all(ids))
            for id_ in self._special.keys() & set(ids):
                text = text.replace(self._special[id_], "")
            text = trim(text)
        return Reply(text, "stop" if ended else "length", prompt_tokens, len(ids))

    @torch.inference_mode()
    def nll(self, conversations: Sequence[list[Message]], completions: Sequence[str]
            ) -> Iterator[tuple[int, tuple[float, int]]]:
        """(index, (negative log-likelihood in nats, tokens)) of completions, end of turn included.

        On a CPU a value depends on (conversation, completion) alone, to the last bit: one row shares
        its forward pass with no other, which costs little there (61 s against 52 s for 134 answers)."""
        views = [self.chat.sft_view(messages, text)
                 for messages, text in zip(conversations, completions, strict=True)]
        together = 1 if self.model.device.type == "cpu" else self.batch_size
        for chosen in buckets([len(view.ids) for view in views], BATCH_TOKENS, together):
            asked = [views[index] for index in chosen]
            with self._turn:
                hidden = completion_hidden(self.model, asked, self.chat.pad_id)
                losses = head_of(self.model).nll(hidden, completion_ids(asked, hidden.device))
            parts = losses.split([len(view.completion) for view in asked])
            for index, part in zip(chosen, parts, strict=True):
                yield index, (float(part.sum()), len(part))
