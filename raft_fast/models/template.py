"""A model's chat template: the text that it writes around messages, found once with a probe conversation.

A prompt is the template's own text up to the answer. What the template puts between its generation prompt
and an answer (an empty thought, a channel's header) belongs to the prompt, and a thought that the generation
prompt leaves open is closed, unless the answer begins with a thought of its own. Texts are only texts: the
name of a control token in one is spelled out (`spelling`).
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from raft_fast.data.texts import Message
from raft_fast.models.spelling import Controls, any_of
from raft_fast.models.thinking import NAME
from raft_fast.run.errors import UserError, first_line

ASKED, ANSWERED = "Which, if any?", "Because 12 of <b>37</b> do."
_USER = Message(role="user", content=ASKED)
_TURNS = [Message(role="user", content="And 4 before?"), Message(role="assistant", content="Yes, *all* 4."),
          _USER]
_SYSTEM = Message(role="system", content="Say so.")
PROBES = ([_SYSTEM, *_TURNS], _TURNS, [_SYSTEM, _USER], [_USER])  # templates refuse what they do not know
SWITCH = ("set the template's own switches with --extra_body '{\"chat_template_kwargs\": {...}}', or choose "
          "another model")
SHOWN = 120  # characters of a rendering that an error quotes
OPENING = rf"<{NAME}>|\[THINK\]|◁think▷|<\|START_THINKING\|>|<\|begin_of_thought\|>"
CLOSING = rf"</{NAME}>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<\|end_of_thought\|>"
_MARK = re.compile(f"({OPENING}|{CLOSING})")
_LAST_THOUGHT = re.compile(rf"(?P<open>{OPENING})(?P<space>\s*)(?P<close>(?:{CLOSING})\s*)?\Z")
_EMPTY_THOUGHT = re.compile(rf"(?:{OPENING})\s*(?:{CLOSING})\s*")
_CLOSED_AT_THE_END = re.compile(rf"(?:{CLOSING})\s*\Z")
_OWN_THOUGHT = re.compile(rf"\s*(?:{OPENING})(?:.*?(?:{CLOSING})\s*|.*)", re.DOTALL)
_END_OF_THOUGHT = re.compile(rf"(?:(?!{OPENING}).)*?(?:{CLOSING})[ \t]*(?:\n\s*|\Z)", re.DOTALL)
_WORDS = re.compile(r"/(?:no_)?think\b")  # they switch thoughts on and off, and templates take them out


class Template:
    """The chat template of `tokenizer`; `name` is the model's in errors, `switches` the template's own.

    `ending` is the text that ends an answer and `end_id` its last token, the end of turn; None if the
    template writes none. Raises UserError if the template cannot be followed, with its text that shows it.
    """

    def __init__(self, tokenizer: Any, name: str, switches: dict[str, Any]) -> None:
        self.tokenizer, self.name, self.switches = tokenizer, name, switches
        added = tokenizer.added_tokens_decoder
        self.added = {str(token): at for at, token in added.items()}
        self.special = {str(token): at for at, token in added.items() if token.special}
        self.special |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        self.parts, self.between, self.lead = False, "", ""
        self.controls = Controls(tokenizer, ())  # nothing of the probe is held back
        self.opened, before, self.ending, self.end_id = self._probe()
        self.between = before[len(self.opened):]
        # what is between beside thoughts follows the thought that an answer begins with
        self.after_thought = "" if _is_open(self.opened) else _EMPTY_THOUGHT.sub("", self.between)
        self.lead = self._leading_space(before)
        marks = [name for name, at in self.added.items() if at == self.end_id and self.ending.endswith(name)]
        self.last_words = self.ending.removesuffix(max(marks, key=len, default=""))  # before the end of turn
        self.controls = Controls(tokenizer, self._control_names())

    def prompt(self, messages: Sequence[Message], answer: str = "") -> list[int]:
        """Token ids up to the answer; a thought at its beginning takes the place of the template's. Raises
        UserError where the template refuses the messages or drops what one says."""
        texts = [_split(turn["content"], turn["role"] == "assistant") for turn in messages]
        held = self._hold(texts)
        turns = [Message(role=turn["role"], content="".join(text))
                 for turn, text in zip(messages, texts, strict=True)]
        return self.controls.ids(self._before(self._render(turns), answer), held)

    def thinks(self, answer: str) -> bool:
        """Whether the answer begins with a thought, which takes the place of the template's in its prompt."""
        return bool(self._own_thought(answer)[0])

    def completion(self, answer: str) -> list[int]:
        """Token ids of an answer as they follow a prompt, up to the template's own end of turn."""
        thought, rest = (_split(text, True) for text in self._own_thought(answer))
        rest = ["".join(rest)]
        held = self._hold([thought, rest])
        text = "".join([*thought, self.after_thought if _OWN_THOUGHT.match(answer) else "", *rest])
        before = self.controls.ids(head := self._before(self.opened, answer))
        ids = self.controls.ids(head + self.lead + text + self.ending, held)
        if ids[: len(before)] == before:
            return ids[len(before):]
        return self.controls.ids(self.lead + text + self.ending, held)  # a token would reach into the prompt

    @property
    def control_ids(self) -> dict[int, str]:
        """Control tokens and their names; a name in a row's text becomes other tokens."""
        return {self.special.get(name, self.added.get(name, -1)): name for name in self.controls.names}

    def known(self) -> list[str]:
        """What the probe has shown, a line each."""
        shown = {"after a question": self.opened.rpartition(ASKED)[2], "before the answer": self.between,
                 "after the answer": self.ending}
        return [f"{where}: `{json.dumps(text, ensure_ascii=False)}`" for where, text in shown.items() if text]

    def _hold(self, texts: Sequence[list[str]]) -> bool:
        """Hold the names of control tokens back in all pieces of text, in place; whether there were any."""
        for said in map("".join, texts):
            if self.controls.found_in(_WORDS.sub("", said)) and not self.controls.found_in(said):
                raise UserError("a text holds a control token around a word that switches thoughts: "
                                f"{_quote(said)}")
        held = self.controls.hold([piece for pieces in texts for piece in pieces[::2]])
        if held is None:
            return False
        one_by_one = iter(held)
        for pieces in texts:
            pieces[::2] = [next(one_by_one) for _ in pieces[::2]]
        return True

    def _own_thought(self, answer: str) -> tuple[str, str]:
        """(the thought that an answer begins with, or the end of one that the template opens; the rest)."""
        found = _OWN_THOUGHT.match(answer)
        if found is None and _is_open(self.opened):
            found = _END_OF_THOUGHT.match(answer)
        return (found[0], answer[found.end():]) if found else ("", answer)

    def _before(self, opened: str, answer: str) -> str:
        """The text before an answer, where `opened` is the template's with its generation prompt."""
        own, _ = self._own_thought(answer)
        thought = _LAST_THOUGHT.search(opened)
        if own and _OWN_THOUGHT.match(own):
            return opened[: thought.start()] if thought else _CLOSED_AT_THE_END.sub("", opened)
        if thought is None:
            return (opened + self.between).removesuffix(self.lead)
        if thought["close"] or own:
            return opened
        return opened + (self.between if _is_open(self.opened) else _closing(thought))

    def _probe(self) -> tuple[str, str, str, int | None]:
        """(the text of a prompt, all text before its answer, the text that ends one, the token that does) of
        the fullest conversation that the template renders, as text or as parts."""
        failed: UserError | None = None
        for probe in PROBES:
            for self.parts in (False, True):
                try:
                    opened = self._render(probe)
                    whole = self._render([*probe, Message(role="assistant", content=ANSWERED)], prompt=False)
                    return opened, *self._around_answer(opened, whole)
                except UserError as error:
                    failed = failed if self.parts else error
        assert failed is not None
        raise failed

    def _around_answer(self, opened: str, whole: str) -> tuple[str, str, int | None]:
        before, _, after = whole.rpartition(ANSWERED)
        if not before.startswith(opened):
            shared = _LAST_THOUGHT.sub("", opened).rstrip()
            if not (opened.startswith(before.rstrip()) or before.startswith(shared)):
                raise UserError(f"--model {self.name}: its chat template cannot be followed: a prompt ends "
                                f"in {_quote(opened)} and a whole conversation has {_quote(before)} before "
                                f"the answer; {SWITCH}")
            before = opened  # a thought, or more than a whole conversation has: what the model sees in use
        if (thought := _LAST_THOUGHT.search(before)) and not thought["close"]:
            before += _closing(thought)
        for names in (self.special, self.added):
            if mark := any_of(names).search(after):
                return before, after[: mark.end()], names[mark[0]]
        return before, "", None

    def _leading_space(self, before: str) -> str:
        """The space at the end of a prompt that is one token with an answer's first word: the answer's."""
        whole = self.controls.ids(before + ANSWERED + self.ending)
        for lead in ("", before[len(before.rstrip()):]):
            prompt = self.controls.ids(before.removesuffix(lead))
            if whole[: len(prompt)] == prompt:
                return lead
        raise UserError(f"--model {self.name}: its chat template cannot be followed: the tokens of "
                        f"{_quote(before)} change when an answer follows; choose another model")

    def _control_names(self) -> set[str]:
        """What must stay text in a row: special tokens, and added ones that are marks of the template."""
        own = self.opened + self.ending
        for turn in (*PROBES[0], _USER):
            own = own.replace(turn["content"], "")
        marks = {name for name in self.added if name in own and not name.isalnum()}
        return {*self.special, *(name for name in marks if not _MARK.fullmatch(name))}

    def _render(self, messages: Sequence[Message], prompt: bool = True) -> str:
        """The template's text; raises UserError where it fails or drops what a message says."""
        given: list[Any] = list(messages)
        if self.parts:
            given = [{**message, "content": [{"type": "text", "text": message["content"]}]}
                     for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(given, add_generation_prompt=prompt, tokenize=False,
                                                      **self.switches)
        except Exception as error:  # a template is a program: it fails as programs do
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(f"--model {self.name}: its chat template refuses a conversation with the "
                            f"roles {roles}: {first_line(error)}") from error
        for message in messages:
            if not _shows(text, message) or (self.parts and f"'text': '{message['content']}'" in text):
                raise UserError(f"--model {self.name}: its chat template drops what the {message['role']} "
                                f"says ({_quote(message['content'])}): its text ends in {_quote(text)}")
        return text


def _split(text: str, keeps_marks: bool) -> list[str]:
    """The text in pieces; every second one is a mark of a thought, which acts in what an assistant says."""
    return _MARK.split(text) if keeps_marks else [text]


def _is_open(opened: str) -> bool:
    """Whether a prompt ends inside a thought."""
    thought = _LAST_THOUGHT.search(opened)
    return thought is not None and not thought["close"]


def _closing(thought: re.Match[str]) -> str:
    """The text that closes an empty thought."""
    mark = thought["open"]
    other = mark.replace("START_", "END_").replace("begin_of_", "end_of_")
    return thought["space"] + (other if other != mark else f"{mark[0]}/{mark[1:]}") + 2 * thought["space"]


def _shows(text: str, message: Message) -> bool:
    """Whether a rendering has what a message says, but for space, for thoughts of earlier turns and for the
    words that switch thoughts on and off."""
    said = message["content"]
    if message["role"] == "assistant":
        said = re.split(CLOSING, said)[-1]
    if said.strip() in text:
        return True
    text = "".join(text.split())
    return all("".join(part.split()) in text for part in _WORDS.split(said))


def _quote(text: str) -> str:
    return json.dumps(text if len(text) <= SHOWN else "..." + text[-SHOWN:], ensure_ascii=False)
