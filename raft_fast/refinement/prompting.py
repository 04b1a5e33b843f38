"""The words that models are asked with: one file a task in `prompts/`, and how a row fills it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from string import Formatter

from raft_fast.engines import Message


@dataclass(frozen=True)
class Prompt:
    """A text with {fields}. Its version is a hash of the words: other words, other cache keys."""

    name: str
    text: str

    @property
    def version(self) -> str:
        return f"{self.name}-{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"

    def fill(self, **fields: str) -> str:
        """The text with every field in place. Raises ValueError where fields and text disagree."""
        wanted = {name for _, name, _, _ in Formatter().parse(self.text) if name is not None}
        if wanted != set(fields):
            raise ValueError(f"prompts/{self.name}.txt has the fields {sorted(wanted)}, "
                             f"given were {sorted(fields)}")
        return self.text.format(**fields)


def load_prompt(name: str) -> Prompt:
    """The prompt in `prompts/<name>.txt`."""
    folder = resources.files("raft_fast.refinement") / "prompts"
    return Prompt(name, (folder / f"{name}.txt").read_text(encoding="utf-8").strip())


def ask_once(text: str) -> list[Message]:
    """A conversation of one user turn: some chat templates know no system role."""
    return [Message(role="user", content=text)]


def in_context(prompt: Sequence[Message], text: str) -> list[Message]:
    """The row's own conversation with the words of its last turn replaced by `text`."""
    return [*prompt[:-1], Message(role="user", content=text)]


def last_question(prompt: Sequence[Message]) -> str:
    """What the row's last user turn says; the turns before it stay turns (see `in_context`)."""
    return prompt[-1]["content"]


def whole_question(prompt: Sequence[Message]) -> str:
    """The row's prompt as one text, for a model that stands outside the conversation."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)
