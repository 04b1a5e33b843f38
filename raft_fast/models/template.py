"""A model's chat template: the text that it writes around messages, found once with a probe conversation.

A prompt is the template's own text up to the answer. What the template puts between its generation prompt
and an answer (an empty thought, a channel's header) belongs to the prompt, and a thought that the generation
prompt leaves open is closed, unless the answer begins with a thought of its own. Texts are only texts: where
a tokenizer would read the name of a control token in one as that token, the name is read in pieces."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from raft_fast.data.texts import Message
from raft_fast.models.thinking import CLOSING, OPENING
from raft_fast.run.errors import UserError, first_line

ASKED, ANSWERED = "Which, if any?", "Because 12 of <b>37</b> do."
_USER = Message(role="user", content=ASKED)
PROBES = ([Message(role="system", content="Say so."), _USER], [_USER])  # some refuse system turns
SHOWN = 120  # characters of a rendering that an error quotes
# private characters of Unicode's last plane: a name that is held back in a text, and a cut in one
_HELD, _CUT = 0x100000, "\U0010FFFD"
_PRIVATE = re.compile("[\U00100000-\U0010FFFF]")
_MARK = re.compile(f"{OPENING}|{CLOSING}", re.IGNORECASE)
_OPEN = re.compile(rf"({OPENING})(\s*)\Z", re.IGNORECASE)
_CLOSED = re.compile(rf"(?:(?:{OPENING})\s*)?(?:{CLOSING})\s*\Z", re.IGNORECASE)
_EMPTY_THOUGHT = re.compile(rf"(?:{OPENING})?\s*(?:{CLOSING})\s*", re.IGNORECASE)
_OWN_THOUGHT = re.compile(rf"\s*(?:{OPENING})(?:.*?(?:{CLOSING})\s*|.*)", re.DOTALL | re.IGNORECASE)
_END_OF_THOUGHT = re.compile(rf".*?(?:{CLOSING})[ \t]*(?:\n\s*|\Z)", re.DOTALL | re.IGNORECASE)
_WORDS = re.compile(r"/(?:no_)?think\b")  # they switch thoughts on and off, and templates take them out


class Template:
    """The chat template of `tokenizer`; `name` is the model's in errors, `switches` the template's own.

    `ending` is the text that ends an answer and `end_id` its last token, the end of turn; None if the
    template writes none. Raises UserError if the template cannot be followed, with its text that shows it."""

    def __init__(self, tokenizer: Any, name: str, switches: dict[str, Any]) -> None:
        self.tokenizer, self.name, self.switches = tokenizer, name, switches
        added = tokenizer.added_tokens_decoder
        self.added = {str(token): at for at, token in added.items()}
        special = {str(token): at for at, token in added.items() if token.special}
        special |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        self.opened, before, after = self._probe()
        self.between = before[len(self.opened):]
        self.ending, self.end_id, self.last_words = "", None, ""  # the last: text before the end of turn
        for names in (self.added, special):
            if mark := _any_of(names).search(after):
                self.ending, self.end_id = after[: mark.end()], names[mark[0]]
                self.last_words = after[: mark.start()]
        self.lead = self._leading_space(before)
        own = self.opened + self.ending
        for turn in PROBES[0]:
            own = own.replace(turn["content"], "")
        marks = {one for one in self.added if one in own and not (one.isalnum() or _MARK.fullmatch(one))}
        every = {**self.added, **special}
        self.controls = {name: every[name] for name in {*special, *marks} if name.strip()}
        self._held = {name: chr(_HELD + at) for at, name in enumerate(self.controls)}
        self._names = _any_of(self.controls)

    def prompt(self, messages: Sequence[Message], thought: str = "") -> list[int]:
        """Token ids up to the answer, whose own `thought` takes the place of the template's. Raises UserError
        where the template refuses the messages or drops what one says."""
        turns = [Message(role=turn["role"], content=self._hold(
            turn["content"], thoughts=turn["role"] == "assistant")) for turn in messages]
        return self._ids(self._before(self._render(turns), thought))

    def thought(self, answer: str) -> str:
        """The thought that an answer begins with, or the end of one that the template opens."""
        found = _OWN_THOUGHT.match(answer)
        if found is None and _closing(self.opened):
            found = _END_OF_THOUGHT.match(answer)
        return found[0] if found else ""

    def completion(self, answer: str) -> list[int]:
        """Token ids of an answer as they follow a prompt, up to the template's own end of turn."""
        thought = self.thought(answer)
        text = self._hold(answer[len(thought):]) + self.ending
        if _OWN_THOUGHT.match(thought):  # what else the template writes before an answer follows its thought
            text = _EMPTY_THOUGHT.sub("", self.between) + text
        text = self.lead + self._hold(thought, thoughts=True) + text
        head = self._before(self.opened, thought)
        before, ids = self._ids(head), self._ids(head + text)
        # the last where a token would reach into the prompt
        return ids[len(before):] if ids[: len(before)] == before else self._ids(text)

    def _hold(self, text: str, thoughts: bool = False) -> str:
        """The text with a private character for the name of every control token, but for marks of `thoughts`,
        which act in what an assistant says. Raises UserError for a text with such characters of its own."""
        if found := _PRIVATE.search(text):
            raise UserError(f"a text holds the private character U+{ord(found[0]):X} of Unicode's last plane")
        return self._names.sub(lambda found: found[0] if thoughts and _MARK.fullmatch(found[0])
                               else self._held[found[0]], text)

    def _ids(self, text: str) -> list[int]:
        """Token ids of a text. A name that was held back in it is cut behind its first character, so that no
        piece is a control token. Raises UserError where one still is."""
        if not _PRIVATE.search(text):
            return self._tokens(text)
        cut = {ord(char): name[0] + _CUT + name[1:] for name, char in self._held.items()}
        first, *others = text.translate(cut).split(_CUT)
        ids, line = self._tokens(first), self._tokens("\n")
        for piece in others:  # inside a line: at the beginning of a text some tokenizers add a space
            behind = self._tokens("\n" + piece)
            ids += behind[len(line):] if behind[: len(line)] == line else self._tokens(piece)
        found, wanted = ([at for at in one if at in self.controls.values()]
                         for one in (ids, self._tokens(_PRIVATE.sub("", text))))
        if found != wanted:
            raise UserError("a text holds a control token that this tokenizer cannot read as mere text: "
                            f"{_quote(''.join([first, *others]))}")
        return ids

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _before(self, opened: str, own: str) -> str:
        """The text before an answer that begins with the thought `own`, where `opened` is the prompt's."""
        if _OWN_THOUGHT.match(own):
            return _OPEN.sub("", _CLOSED.sub("", opened))
        if own or _CLOSED.search(opened):
            return opened
        if not _closing(self.opened) and (closing := _closing(opened)):
            return opened + closing
        return (opened + self.between).removesuffix(self.lead)

    def _probe(self) -> tuple[str, str, str]:
        """(the text of a prompt, all text before its answer, the text after it), of the fullest conversation
        that the template renders, as text or as parts."""
        failed = []
        for probe in PROBES:
            for self.parts in (False, True):
                try:
                    return self._around(probe)
                except UserError as error:
                    failed.append(error)
        raise failed[-2]  # of the shortest conversation, as text

    def _around(self, messages: Sequence[Message]) -> tuple[str, str, str]:
        opened = self._render(messages)
        whole = self._render([*messages, Message(role="assistant", content=ANSWERED)], prompt=False)
        before, _, after = whole.rpartition(ANSWERED)
        if not before.startswith(opened):
            shared = _OPEN.sub("", _CLOSED.sub("", opened)).rstrip()
            if not (opened.startswith(before.rstrip()) or before.startswith(shared)):
                raise UserError(f"--model {self.name}: its chat template cannot be followed: a prompt ends "
                                f"in {_quote(opened)} and a whole conversation has {_quote(before)} before "
                                "the answer; set the template's own switches with --extra_body "
                                "'{\"chat_template_kwargs\": {...}}', or choose another model")
            before = opened  # a thought, or more than a whole conversation has: what the model sees in use
        return opened, before + _closing(before), after

    def _leading_space(self, before: str) -> str:
        """The space at the end of a prompt that is one token with an answer's first word: the answer's."""
        whole = self._ids(before + ANSWERED + self.ending)
        for lead in ("", before[len(before.rstrip()):]):
            prompt = self._ids(before.removesuffix(lead))
            if whole[: len(prompt)] == prompt:
                return lead
        raise UserError(f"--model {self.name}: its chat template cannot be followed: the tokens of "
                        f"{_quote(before)} change when an answer follows; choose another model")

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


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """One of the names, the longest first; without any, what no text has."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")


def _closing(text: str) -> str:
    """What closes the thought that a text ends in, as an empty one; empty where that is not open."""
    if (found := _OPEN.search(text)) is None:
        return ""
    mark, space = found.groups()
    other = mark.replace("START_", "END_").replace("begin_of_", "end_of_")
    return space + (other if other != mark else f"{mark[0]}/{mark[1:]}") + 2 * space


def _shows(text: str, message: Message) -> bool:
    """Whether a rendering has what a message says, but for space, for thoughts of earlier turns and for the
    words that switch thoughts on and off."""
    said = message["content"]
    if message["role"] == "assistant":
        said = re.split(CLOSING, said)[-1]
    text = "".join(text.split())
    return all("".join(part.split()) in text for part in _WORDS.split(said))


def _quote(text: str) -> str:
    return json.dumps(text if len(text) <= SHOWN else "..." + text[-SHOWN:], ensure_ascii=False)
