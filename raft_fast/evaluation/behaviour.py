"""How a model answers, whatever it says: how long, how often cut off, how often it declines."""

import re
from collections.abc import Sequence
from typing import Any

from raft_fast.evaluation.statistics import Mean, Pair, paired_change, weighted_mean

METRICS = ("words", "cut_off", "refused")
WORD = re.compile(r"\w+")
OPENING = 240  # characters: a refusal comes first
# the general prompts are English; a refusal in another language is not seen
REFUSAL = re.compile(r"""
    \bas\ an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model)\b
  | \bi(?:'m|\ am)\ (?:very\ |so\ )?(?:sorry|afraid),?\ (?:but\ )?i\b
  | (?:^|[.!]\ )(?:sorry|i\ apologi[sz]e|my\ apologies),?\ (?:but\ )?i\b
  | \bi(?:'m|\ am)\ (?:unable|not\ able)\ to\b
  | \bi\ (?:must|have\ to)\ (?:decline|refuse)\b
  # only what one does for who asks: "I cannot build there" is a landowner's sentence
  | \bi(?:\ can(?:'t|\ ?not)|\ won't|\ will\ not|\ (?:decline|refuse)\ to
       |(?:'m|\ am)\ not\ (?:allowed|permitted|going)\ to)\ (?:\w+\ )?
    (?:help|assist|answer|respond|provide|give|comply|fulfil|tell\ you|share|discuss|advise|disclose|
       say(?=[.,!]|$)|do\ (?:this|that|so)(?=[.,!]|$))
""", re.IGNORECASE | re.VERBOSE)


def behaviour(base: Sequence[dict[str, Any]], trained: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For each of `METRICS` both models' mean over their answers to the same prompts, and the change.

    Takes generation records of one suite in one order; failed answers count on neither side.
    """
    found: dict[str, dict[str, Mean]] = {}
    for metric in METRICS:
        left, right = ([part_of(record, metric) for record in records] for records in (base, trained))
        found[metric] = {"base": weighted_mean(left), "trained": weighted_mean(right),
                         "change": paired_change(left, right)}
    return found


def refuses(answer: str) -> bool:
    """Whether an answer begins by saying that it will not answer."""
    return bool(REFUSAL.search(answer[:OPENING].replace("’", "'")))


def part_of(record: dict[str, Any], metric: str) -> Pair | None:
    """(value, weight) of one generation record for a metric of `METRICS`; None for a failed answer."""
    if record["error"] is not None:
        return None
    answer = record["answer"]
    measured = {"words": len(WORD.findall(answer)), "cut_off": record["finish_reason"] == "length",
                "refused": refuses(answer)}
    return float(measured[metric]), 1.0
