"""A model's chat template: what it writes around the texts it is given, found out once with a probe.

A prompt is the template's own text up to the answer. What the template puts between its generation prompt
and an answer (an empty thought, a channel's header) belongs to the prompt, and a thought that the generation
prompt leaves open is closed. Texts are only texts: the name of a special token in one is spelled out.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raft_fast.engines.base import Message
from raft_fast.engines.thinking import NAME
from raft_fast.errors import UserError, first_line

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
_LAST_THOUGHT = re.compile(rf"(?P<open>{OPENING})(?P<space>\s*)(?P<close>(?:{CLOSING})\s*)?\Z")
_HELD, _OWN = 0xF0000, 0x100000  # private characters: a control token's name in a text; the token itself
_PRIVATE = re.compile("[\U000F0000-\U0010FFFF]")


class Template:
    """The chat template of `tokenizer`; `name` is the model's in errors, `switches` the template's own.

    `ending` is the text that ends an answer and `end_id` its last token, the end of turn; None where the
    template writes none. Raises UserError where the template cannot be followed, with its text that shows it.
    """

    def __init__(self, tokenizer: Any, name: str, switches: dict[str, Any]) -> None:
        self.tokenizer, self.name, self.switches = tokenizer, name, switches
        added = tokenizer.added_tokens_decoder
        self.added = {str(token): at for at, token in added.items()}
        self.special = {str(token): at for at, token in added.items() if token.special}
        self.special |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        self.parts, self.between, self.lead = False, "", ""
        self.controls = Controls(tokenizer, ())  # nothing of the probe is held back
        probe = self._probe()
        opened = self._render(probe)
        whole = self._render([*probe, Message(role="assistant", content=ANSWERED)], prompt=False)
        before, self.ending, self.end_id = self._around_answer(opened, whole)
        self.between = before[len(opened):]
        self.lead = self._leading_space(before)
        self.head = before.removesuffix(self.lead)
        self.controls = Controls(tokenizer, self._control_names())

    def prompt(self, messages: Sequence[Message], answer: str = "") -> list[int]:
        """Token ids up to the answer; a thought at its beginning takes the place of the template's. Raises
        UserError where the template refuses the messages or drops what one says."""
        held = [Message(role=turn["role"], content=self.controls.hold(turn["content"]))
                for turn in messages]
        text = (self._render(held) + self.between).removesuffix(self.lead)
        return self.controls.ids(_without_thought(text, answer), held != list(messages))

    def completion(self, answer: str) -> list[int]:
        """Token ids of an answer as they follow a prompt, up to the template's own end of turn."""
        held = self.controls.hold(answer)
        head, text, is_held = self.head, self.lead + held + self.ending, held != answer
        head = _without_thought(head, answer)
        before, ids = self.controls.ids(head), self.controls.ids(head + text, is_held)
        if ids[: len(before)] == before:
            return ids[len(before):]
        return self.controls.ids(text, is_held)  # one token would reach over into the prompt

    @property
    def control_ids(self) -> dict[int, str]:
        """The tokens that act on the model; their names in a row are spelled in other ones."""
        return {self.special.get(name, self.added.get(name, -1)): name for name in self.controls.names}

    def known(self) -> list[str]:
        """What the probe has shown, a line each."""
        asked = self.head.rpartition(ASKED)[2].removesuffix(self.between)
        shown = {"after a question": asked, "before the answer": self.between,
                 "after the answer": self.ending}
        return [f"{where}: `{json.dumps(text, ensure_ascii=False)}`" for where, text in shown.items() if text]

    def _probe(self) -> list[Message]:
        """The fullest conversation that the template renders with its question, as text or as parts."""
        failed: UserError | None = None
        for probe in PROBES:
            for self.parts in (False, True):
                try:
                    self._render(probe)
                    return probe
                except UserError as error:
                    failed = failed if self.parts else error
        assert failed is not None
        raise failed

    def _around_answer(self, opened: str, whole: str) -> tuple[str, str, int | None]:
        """(all text before an answer, the text that ends one, the token that ends it)."""
        before, _, after = whole.rpartition(ANSWERED)
        if not before.startswith(opened):
            shared = _LAST_THOUGHT.sub("", opened).rstrip()
            if not (opened.startswith(before.rstrip()) or before.startswith(shared)):
                raise UserError(f"--model {self.name}: its chat template cannot be followed: a prompt ends "
                                f"in {_quote(opened)} and a whole conversation has {_quote(before)} before "
                                f"the answer; {SWITCH}")
            before = opened  # a thought, or more than a whole conversation has: what the model sees in use
        if (thought := _LAST_THOUGHT.search(before)) and not thought["close"]:
            before += thought["space"] + _closing(thought["open"]) + 2 * thought["space"]
        for names in (self.special, self.added):
            if mark := _any_of(names).search(after):
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
                        f"{_quote(before)} are others when an answer follows; choose another model")

    def _control_names(self) -> set[str]:
        """What must stay text in a row: special tokens, and added ones that the template works with."""
        own = _LAST_THOUGHT.sub("", self.head) + self.ending
        marks = {name for name in self.added if name in own}
        return {*self.special, *(name for name in marks if not re.fullmatch(f"{OPENING}|{CLOSING}", name))}

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
            if not _shows(text, message):
                raise UserError(f"--model {self.name}: its chat template drops what the {message['role']} "
                                f"says ({_quote(message['content'])}): its text ends in {_quote(text)}")
        return text


class Controls:
    """The tokens of a tokenizer that act on a model, and a way to read their `names` as mere text."""

    def __init__(self, tokenizer: Any, names: Iterable[str]) -> None:
        self.tokenizer = tokenizer
        self.names = sorted(filter(str.strip, names))
        self.pattern = _any_of(self.names)
        self._own = {name: chr(_OWN + at) for at, name in enumerate(self.names)}
        self._held = {name: chr(_HELD + at) for at, name in enumerate(self.names)}
        self._speller: Any = None  # made when the first text needs it: that takes a second

    def hold(self, text: str) -> str:
        """The text with a private character for every name in it. Raises UserError if it has some already."""
        if not (found := self.pattern.search(text)):
            return text
        if not self.tokenizer.is_fast:
            raise UserError(f"a text holds {found[0]}, which this tokenizer cannot read as mere text")
        if _PRIVATE.search(text):
            raise UserError(f"a text holds {found[0]} beside characters of a private plane of Unicode")
        return self.pattern.sub(lambda found: self._held[found[0]], text)

    def ids(self, text: str, is_held: bool = False) -> list[int]:
        """Token ids of a text, in which the names that were held back are spelled out."""
        if not is_held:
            return self.tokenizer(text, add_special_tokens=False).input_ids
        if self._speller is None:
            self._speller = _speller(self.tokenizer, self._own)
        own = self.pattern.sub(lambda found: self._own[found[0]], text)
        spelled = own.translate({ord(char): name for name, char in self._held.items()})
        return self._speller.encode(spelled, add_special_tokens=False).ids


def _without_thought(text: str, answer: str) -> str:
    """A prompt's text without the thought at its end where the answer begins with its own."""
    thought = _LAST_THOUGHT.search(text) if re.match(OPENING, answer) else None
    return text[: thought.start()] if thought else text


def _closing(mark: str) -> str:
    """The mark that closes a thought."""
    other = mark.replace("START_", "END_").replace("begin_of_", "end_of_")
    return other if other != mark else f"{mark[0]}/{mark[1:]}"


def _shows(text: str, message: Message) -> bool:
    """Whether a rendering has what a message says, but for thoughts of earlier turns and the words that
    switch thoughts on and off."""
    said = message["content"]
    if message["role"] == "assistant":
        said = re.split(CLOSING, said)[-1]
    return said.strip() in text or all(part.strip() in text for part in re.split(r"/(?:no_)?think\b", said))


def _speller(tokenizer: Any, new: Mapping[str, str]) -> Any:
    """A copy of a fast tokenizer with new names for some tokens, so that their old names are text like any
    other; the ids stay."""
    from tokenizers import Tokenizer

    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec |= {"post_processor": None, "truncation": None, "padding": None}
    for token in spec["added_tokens"]:
        token["content"] = new.get(token["content"], token["content"])
    model = spec["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {new.get(piece, piece): at for piece, at in model["vocab"].items()}
    else:
        model["vocab"] = [[new.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") in new:
        model["unk_token"] = new[model["unk_token"]]
    speller = Tokenizer.from_str(json.dumps(spec))
    assert all(speller.token_to_id(char) == tokenizer.convert_tokens_to_ids(name)
               for name, char in new.items())
    return speller


def _any_of(names: Iterable[str]) -> re.Pattern:
    """One of the names, the longest first; without any, what no text has."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")


def _quote(text: str) -> str:
    return json.dumps(text if len(text) <= SHOWN else "..." + text[-SHOWN:], ensure_ascii=False)
