"""The only place that knows chat templates: conversations become token ids and spans.

Teacher and student see different prompts and the same completion. A completion is a list of token
ids from the moment it is sampled or tokenised; nothing here decodes and re-encodes one.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jinja2

from raft_fast.engines.base import Message
from raft_fast.errors import UserError

REFERENCE_PROMPT = (
    "Background reference knowledge: {answer}\n"
    "Answer the question based on the reference knowledge: {question}"
)
_PROBE = "raft-probe-answer"


@dataclass(frozen=True)
class View:
    """Token ids of a prompt and of the completion that follows it; lengths are the only masks."""

    prompt: list[int]
    completion: list[int]

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.completion


class Chat:
    """A tokenizer's chat template.

    `eos_ids` holds every id that ends a completion, `end_of_turn` the one the template itself puts
    after an answer. `template_kwargs` are the template's own switches (enable_thinking, ...): all
    views of a model are rendered with the same ones. Raises UserError where the tokenizer has no
    template or no end of sequence.
    """

    def __init__(
        self, tokenizer: Any, generation_config: Any = None, name: str = "the model",
        template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.tokenizer, self.name, self.template_kwargs = tokenizer, name, template_kwargs or {}
        if not tokenizer.chat_template:
            raise UserError(f"--model {name}: its tokenizer has no chat template; choose an instruct "
                            "model, or save the tokenizer with a chat_template")
        self.eos_ids = _eos_ids(tokenizer, generation_config)
        if not self.eos_ids:
            raise UserError(f"--model {name}: neither tokenizer nor generation config names an eos token")
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.eos_ids)
        self.end_of_turn = self._end_of_turn()

    def student_prompt(self, messages: Sequence[Message]) -> list[int]:
        """What the student sees: the conversation up to the start of its answer."""
        return self._render(messages)

    def teacher_prompt(self, messages: Sequence[Message], answer: str) -> list[int]:
        """What the teacher sees (Eq. 7): the same, with the answer as reference knowledge."""
        question = messages[-1]["content"]
        shown = REFERENCE_PROMPT.format(answer=answer, question=question)
        return self._render([*messages[:-1], Message(role="user", content=shown)])

    def completion(self, answer: str) -> list[int]:
        """An answer as the student would have sampled it, end of turn included."""
        plain = self.tokenizer(answer, add_special_tokens=False, split_special_tokens=True)
        return [*plain.input_ids, self.end_of_turn]  # "<eos>" in an answer's text is only text

    def sft_view(self, messages: Sequence[Message], answer: str) -> View:
        """The student's prompt followed by the training answer."""
        return View(self.student_prompt(messages), self.completion(answer))

    @cached_property
    def ids(self) -> frozenset[int]:
        """The ids that the tokenizer has a token for, or that end a completion."""
        return self.eos_ids | frozenset(self.tokenizer.get_vocab().values())

    def below(self, rows: int) -> "Chat":
        """The same chat where one of the models has only `rows` rows: it has no ids from there on."""
        fewer = copy.copy(self)
        fewer.ids = frozenset(token for token in self.ids if token < rows)
        return fewer

    def lacking(self, rows: int) -> list[int]:
        """The ids below `rows` that are never sampled nor taught, as nothing stands for them: padding of a
        model's vocabulary, holes in the tokenizer's."""
        return sorted(set(range(rows)) - self.ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of sampled ids without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def decode_all(self, ids: Sequence[int]) -> str:
        """Text of ids as it is, special tokens and all."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _render(self, messages: Sequence[Message]) -> list[int]:
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=True, return_dict=False,
                **self.template_kwargs)
        except jinja2.TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(f"--model {self.name}: its chat template refuses a conversation with the "
                            f"roles {roles}: {error}") from error

    def _end_of_turn(self) -> int:
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
            tail = self.tokenizer(text.rsplit(_PROBE, 1)[-1], add_special_tokens=False).input_ids
        except jinja2.TemplateError:  # it wants more than these two turns
            tail = []
        if tail and tail[0] in self.tokenizer.all_special_ids:  # the template's own end, listed or not
            self.eos_ids |= {tail[0]}
        ends = [token for token in tail if token in self.eos_ids]
        if ends:
            return ends[0]
        own = self.tokenizer.eos_token_id
        return min(self.eos_ids) if own is None else own


def _eos_ids(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    configured = getattr(generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list | tuple) else [configured]
    return frozenset(token for token in [tokenizer.eos_token_id, *listed] if token is not None)


def check_rows(tokenizer: Any, rows: int, name: str) -> None:
    """Raise UserError where a model of `rows` rows cannot read every token. Marks of other modalities, which
    the tokenizer has by name (image_token), are no matter: text never holds them."""
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
