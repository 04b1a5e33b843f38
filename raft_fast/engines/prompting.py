"""The words that models are asked with: one file a task in `prompts/`, and how a row fills it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from string import Formatter

from raft_fast.data.texts import Message
from raft_fast.run.errors import UserError

FIELDS = {
    "rewrite": {"question", "answer"},
    "fuse": {"question", "gold", "rewrite"},
    "judge": {"question", "gold", "answer"},
    "jury": {"question", "gold", "answer"},
    "paraphrase": {"question"},
}


@dataclass(frozen=True)
class Prompt:
    """A text with {fields}. Its version is a hash of the words: other words, other cache keys."""

    name: str
    text: str

    @property
    def version(self) -> str:
        return f"{self.name}-{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"

    @property
    def fields(self) -> set[str]:
        """The names in braces. Raises ValueError for a lone brace."""
        return {name for _, name, _, _ in Formatter().parse(self.text) if name is not None}

    def fill(self, **fields: str) -> str:
        """The text with every field in place. Raises ValueError where fields and text disagree."""
        if self.fields != set(fields):
            raise ValueError(f"prompts/{self.name}.txt has the fields {sorted(self.fields)}, "
                             f"given were {sorted(fields)}")
        return self.text.format(**fields)


@dataclass(frozen=True)
class Prompts:
    """One prompt a task of stage 1."""

    rewrite: Prompt
    fuse: Prompt
    judge: Prompt

    @property
    def versions(self) -> dict[str, str]:
        return {name: prompt.version for name, prompt in vars(self).items()}


def load_prompts(folder: str | None = None) -> Prompts:
    """Stage 1's prompts in `folder`, and the shipped ones for those that it lacks.

    Raises UserError for a folder without any, a file that is no task's, and a text whose {fields} are
    not the task's.
    """
    if folder is not None:
        check_folder(folder, "--prompts")
    return Prompts(**{field.name: load_prompt(field.name, folder) for field in fields(Prompts)})


def load_own(name: str, folder: str | None, option: str) -> Prompt:
    """One task's prompt, from the folder that `option` names where it has one. Raises as `load_prompts`."""
    if folder is not None:
        check_folder(folder, option)
    return load_prompt(name, folder)


def check_folder(folder: str, option: str) -> None:
    """Raises UserError for a folder without any prompt or with a file that is no task's."""
    names = {file.stem for file in Path(folder).glob("*.txt")}
    known = ", ".join(f"{name}.txt" for name in FIELDS)
    if not names:
        raise UserError(f"{option} {folder}: holds no prompt; name a folder with {known}")
    if unknown := sorted(names - set(FIELDS)):
        raise UserError(f"{option} {folder}: {unknown[0]}.txt is no prompt; there are {known}")


def load_prompt(name: str, folder: str | None = None) -> Prompt:
    """The prompt in `<name>.txt` of the folder where it has one, else the shipped one."""
    own = None if folder is None else Path(folder) / f"{name}.txt"
    if own is None or not own.is_file():
        shipped = resources.files("raft_fast.engines") / "prompts" / f"{name}.txt"
        return Prompt(name, shipped.read_text(encoding="utf-8").strip())
    try:
        prompt = Prompt(name, own.read_text(encoding="utf-8").strip())
        found = prompt.fields
    except (UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{own}: {error}; a brace that is only a brace is written twice") from error
    for wanted in sorted(FIELDS[name] - found):
        raise UserError(f"{own}: lacks the placeholder {{{wanted}}}")
    for extra in sorted(found - FIELDS[name]):
        raise UserError(f"{own}: has the placeholder {{{extra}}}, which nothing fills; there are "
                        + ", ".join(f"{{{field}}}" for field in sorted(FIELDS[name])))
    return prompt


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
