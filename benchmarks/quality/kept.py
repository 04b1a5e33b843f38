"""How much of the base's IFBench score each method's best point keeps: counted in the raw answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.quality.disk import BASE_ANSWERS, read_lines
from raft_fast.evaluation.general import GeneralScores
from raft_fast.evaluation.statistics import Mean, Pair, paired_ratio
from raft_fast.report.text import percent

FEW = 20  # instructions: a share of fewer moves by more than 5 % with every one
Result = dict[str, Any]


class Kept(NamedTuple):
    """Instructions followed on the prompts that base and method both answered; the method's are a mean over
    its seeds. `share` is theirs of the base's, with an interval paired over prompts."""

    before: int
    after: float
    asked: int
    share: Mean

    @property
    def too_few(self) -> bool:
        """Whether the base follows so few that a share of them says nothing."""
        return self.before < FEW

    def counts(self) -> str:
        """"3 → 5 of 27"."""
        return f"{self.before} → {round(self.after, 1):g} of {self.asked}"

    def __str__(self) -> str:
        """"94 % [80 %, 104 %]", or the counts where a share says nothing."""
        if self.too_few:
            return self.counts()
        return shared(self.share)


def kept(found: Result, folder: Path) -> dict[str, Kept]:
    """By method, for those whose answers to the general prompts are in the comparison's `folder`."""
    base = _followed(folder / BASE_ANSWERS)
    counted = {}
    for method, one in found["best"].items():
        seeds = [_followed(folder / "cells" / cell["folder"] / f"point-{one['step']:06d}.generations.jsonl")
                 for cell in found["cells"] if cell["method"] == method
                 and cell["options"]["learning_rate"] == one["learning_rate"]]
        seeds = [pairs for pairs in seeds if pairs]
        if base and seeds:
            counted[method] = count(base, seeds)
    return counted


def count(base: Sequence[Pair | None], seeds: Sequence[Sequence[Pair | None]]) -> Kept:
    """Prompts that any of them lacks count nowhere; a prompt is drawn with all its seeds."""
    prompts = [row for row in zip(base, *seeds, strict=True) if None not in row]
    before = [row[0] for row in prompts]
    after = [(sum(pair[0] for pair in row[1:]), sum(pair[1] for pair in row[1:])) for row in prompts]
    return Kept(round(sum(pair[0] for pair in before)), sum(pair[0] for pair in after) / len(seeds),
                round(sum(pair[1] for pair in before)), paired_ratio(before, after))


def shared(share: Mean) -> str:
    """A share with its interval, where it has one."""
    interval = f" [{percent(share['low'])}, {percent(share['high'])}]" if share["low"] is not None else ""
    return percent(share["mean"]) + interval


def _followed(path: Path) -> list[Pair | None]:
    """(followed, asked) of every general prompt."""
    records = [one for one in read_lines(path) if one["suite"] == "general"]
    return GeneralScores(records, {}).parts("strict_instruction")
