"""Scores of any part: collecting answers, comparing both models, length and refusals of answers."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raft_fast.data.texts import Message
from raft_fast.engines import Engine, Reply, Sampling
from raft_fast.evaluation.statistics import Mean, Pair, Pairs, compare_pairs, weighted_mean
from raft_fast.run.progress import Reporter

MODELS = ("base", "trained")
BEHAVIOUR = ("words", "cut_off", "refused")
WORD = re.compile(r"\w+")
OPENING = 240  # characters in which a refusal is looked for
# English only, like the general prompts
REFUSAL = re.compile(r"""
    \bas\ an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model)\b
  | \bi(?:'m|\ am)\ (?:very\ |so\ )?(?:sorry|afraid),?\ (?:but\ )?i\b
  | (?:^|[.!]\ )(?:sorry|i\ apologi[sz]e|my\ apologies),?\ (?:but\ )?i\b
  | \bi(?:'m|\ am)\ (?:unable|not\ able)\ to\b
  | \bi\ (?:must|have\ to)\ (?:decline|refuse)\b
  # only verbs of helping somebody: "I cannot build there" is a landowner's sentence
  | \bi(?:\ can(?:'t|\ ?not)|\ won't|\ will\ not|\ (?:decline|refuse)\ to
       |(?:'m|\ am)\ not\ (?:allowed|permitted|going)\ to)\ (?:\w+\ )?
    (?:help|assist|answer|respond|provide|give|comply|fulfil|tell\ you|share|discuss|advise|disclose|
       say(?=[.,!]|$)|do\ (?:this|that|so)(?=[.,!]|$))
""", re.IGNORECASE | re.VERBOSE)
Record = dict[str, Any]  # a line of generations.jsonl


@dataclass(frozen=True)
class Scores:
    """One model on one part: a record for each row in order, and how metrics are read from records."""

    records: list[Record]
    metrics: dict[str, bool]  # name -> is higher better?
    pair: Callable[[Record, str], Pair | None]
    mean: Callable[[Pairs], Mean] = weighted_mean

    def parts(self, metric: str) -> list[Pair | None]:
        """(value, weight) of every row."""
        return [self.pair(record, metric) for record in self.records]

    @cached_property
    def means(self) -> dict[str, Mean]:
        return {metric: self.mean(self.parts(metric)) for metric in self.metrics}


def compare_scores(base: Scores, trained: Scores) -> dict[str, Any]:
    """Metrics of both models with the change between them; failed and truncated answers of each."""
    def count(holds: Callable[[Record], bool]) -> dict[str, int]:
        return {name: sum(map(holds, one.records)) for name, one in zip(MODELS, (base, trained), strict=True)}

    return {"metrics": {metric: compare_pairs(base.parts(metric), trained.parts(metric), base.mean)
                        | {"higher_is_better": better} for metric, better in base.metrics.items()},
            "failed": count(lambda record: record["error"] is not None),
            "truncated": count(lambda record: record["finish_reason"] == "length")}


def collect(engine: Engine, prompts: Sequence[list[Message]], max_new_tokens: int, reporter: Reporter,
            phase: str) -> list[Reply]:
    """Greedy replies in the order of `prompts`, with progress."""
    replies: dict[int, Reply] = {}
    under_way = getattr(engine, "under_way", "")
    with reporter.phase(phase, len(prompts), "answers") as advance:
        advance(0, note=under_way)
        for index, reply in engine.generate(prompts, Sampling(max_new_tokens)):
            replies[index] = reply
            advance(note=under_way)
    return [replies[index] for index in range(len(prompts))]


def behaviour(base: Sequence[Record], trained: Sequence[Record]) -> dict[str, Any]:
    """Both models' mean number of words, share of answers cut off and share of refusals, with the change.

    Takes the records of one part in one order; failed answers are left out.
    """
    def pairs(records: Sequence[Record], metric: str) -> list[Pair | None]:
        return [behaviour_of(record, metric) for record in records]

    return {metric: compare_pairs(pairs(base, metric), pairs(trained, metric)) for metric in BEHAVIOUR}


def behaviour_of(record: Record, metric: str) -> Pair | None:
    """(value, weight) of one record for a metric of `BEHAVIOUR`; None for a failed answer."""
    if record["error"] is not None:
        return None
    measured = {"words": len(WORD.findall(record["answer"])), "refused": refuses(record["answer"]),
                "cut_off": record["finish_reason"] == "length"}
    return float(measured[metric]), 1.0


def refuses(answer: str) -> bool:
    """Whether an answer begins with a refusal."""
    return bool(REFUSAL.search(answer[:OPENING].replace("’", "'")))
