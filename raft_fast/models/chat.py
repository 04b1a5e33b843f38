"""Conversations as token ids and spans, by the model's chat template.

Teacher and student see different prompts and the same completion. A completion is a list of token
ids from the moment it is sampled or tokenised; nothing here decodes and re-encodes one."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from raft_fast.data.texts import Message, trim
from raft_fast.models.template import Template
from raft_fast.run.errors import UserError

REFERENCE_PROMPT = ("Background reference knowledge: {answer}\n"
                    "Answer the question based on the reference knowledge: {question}")
RENDERED = 1024  # prompts that are kept


@dataclass(frozen=True)
class View:
    """Token ids of a prompt and of the completion that follows it; lengths are the only masks."""

    prompt: list[int]
    completion: list[int]

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.completion


class Chat:
    """A tokenizer's chat template, with its own switches `template_kwargs` (enable_thinking, ...).

    `ids` have a token or end a completion, `eos_ids` end one, `end_of_turn` is what the template itself puts
    after an answer. Raises UserError if the tokenizer has no template or no end of sequence."""

    def __init__(self, tokenizer: Any, generation_config: Any = None, name: str = "the model",
                 template_kwargs: dict[str, Any] | None = None) -> None:
        self.tokenizer, self.template_kwargs = tokenizer, template_kwargs or {}
        if not tokenizer.chat_template:
            raise UserError(f"--model {name}: its tokenizer has no chat template; choose an instruct "
                            "model, or save the tokenizer with a chat_template")
        self.template = Template(tokenizer, name, self.template_kwargs)
        self._rendered = lru_cache(RENDERED)(lambda turns, thought: self.template.prompt(
            [Message(role=role, content=content) for role, content in turns], thought))
        own, end = tokenizer.eos_token_id, self.template.end_id
        self.eos_ids = _eos_ids(own, generation_config) | ({end} if end is not None else set())
        if not self.eos_ids:
            raise UserError(f"--model {name}: neither tokenizer nor generation config names an eos token")
        self.ids = self.eos_ids | frozenset(tokenizer.get_vocab().values())
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.eos_ids)
        self.end_of_turn = next(each for each in (end, own, min(self.eos_ids)) if each is not None)

    def name_end(self, generation_config: Any) -> None:
        """Make `generate`, and servers of a model saved with this config, stop where answers end."""
        known = _eos_ids(None, generation_config)
        if self.end_of_turn not in known:
            generation_config.eos_token_id = sorted(known | {self.end_of_turn})
            generation_config._from_model_config = False  # else it may be made anew from the model's

    def student_prompt(self, messages: Sequence[Message], answer: str = "") -> list[int]:
        """What the student sees: the conversation up to its answer, whose thought replaces the template's.
        Rendered once for a draw, its answer and its trajectory."""
        turns = tuple((turn["role"], turn["content"]) for turn in messages)
        return [*self._rendered(turns, self.template.thought(answer))]

    def teacher_prompt(self, messages: Sequence[Message], answer: str) -> list[int]:
        """What the teacher sees (Eq. 7): the same, with the answer as reference knowledge."""
        question = messages[-1]["content"]
        shown = REFERENCE_PROMPT.format(answer=answer, question=question)
        return self.student_prompt([*messages[:-1], Message(role="user", content=shown)])

    def completion(self, answer: str) -> list[int]:
        """An answer as the student would have sampled it, end of turn included."""
        ids = self.template.completion(answer)
        return ids if self.template.end_id is not None else [*ids, self.end_of_turn]

    def sft_view(self, messages: Sequence[Message], answer: str) -> View:
        """The student's prompt followed by the training answer."""
        return View(self.student_prompt(messages, answer), self.completion(answer))

    def below(self, rows: int) -> "Chat":
        """The same chat where one of the models has only `rows` rows: it has no ids from there on."""
        fewer = copy.copy(self)
        fewer.ids = frozenset(token for token in self.ids if token < rows)
        return fewer

    def lacking(self, rows: int) -> list[int]:
        """The ids below `rows` that stand for nothing (padding of a vocabulary): never sampled nor taught."""
        return _lacking(self.ids, rows)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of sampled ids without special tokens and ends of turn."""
        said = [token for token in ids if token not in self.eos_ids]  # an end of turn need not be special
        text = self.tokenizer.decode(said, skip_special_tokens=True)
        return trim(text.removesuffix(self.template.last_words))

    def decode_all(self, ids: Sequence[int]) -> str:
        """Text of ids as it is, special tokens and all."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _eos_ids(own: int | None, generation_config: Any) -> frozenset[int]:
    configured = getattr(generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list | tuple) else [configured]
    return frozenset(token for token in [own, *listed] if token is not None)


@lru_cache(maxsize=8)  # every batch that is sampled asks
def _lacking(ids: frozenset[int], rows: int) -> list[int]:
    return [token for token in range(rows) if token not in ids]


def check_rows(tokenizer: Any, rows: int, name: str) -> None:
    """Raise UserError if a model of `rows` rows cannot read every token. Marks of other modalities, which the
    tokenizer has by name (image_token), do not count: text never holds them."""
    named = set(tokenizer.special_tokens_map) - set(type(tokenizer).SPECIAL_TOKENS_ATTRIBUTES)
    marks = {tokenizer.special_tokens_map[key] for key in named}
    beyond = [(token_id, token) for token, token_id in tokenizer.get_vocab().items()
              if token_id >= rows and token not in marks]
    if beyond:
        token_id, token = min(beyond)
        raise UserError(f"--model {name}: its tokenizer has the token {token!r} at id {token_id}, and its "
                        f"embeddings only {rows} rows: take the tokenizer that belongs to the model, or "
                        "resize the model (resize_token_embeddings) and save it")


def check_same_tokenizer(student: Any, teacher: Any) -> None:
    """Raise UserError unless both tokenizers give every id the same meaning."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours != theirs:
        differing = sorted(set(ours.items()) ^ set(theirs.items()), key=lambda item: item[1])
        token, token_id = differing[0]
        raise UserError(
            f"student and teacher have different tokenizers ({len(ours)} and {len(theirs)} tokens; "
            f"first difference: {token!r} at id {token_id}): use models of one family")
