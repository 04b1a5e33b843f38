"""Suites that lm-eval runs."""

from dataclasses import dataclass

from raft_fast.run.options.check import check, listed


@dataclass
class LMEvalOptions:
    """lm-eval"""

    lm_eval: str = listed("")
    """Tasks of lm-eval to run on both models, separated by commas: ifeval,hellaswag. Needs the package
    lm-eval, and the tasks' data from the hub or its cache. Empty: none."""
    lm_eval_limit: int = 0
    """Documents of each task at most; 0 takes all."""
    lm_eval_include: str | None = None
    """A folder with task files of your own (lm-eval's YAML)."""

    def __post_init__(self) -> None:
        check(self.lm_eval_limit >= 0, "--lm_eval_limit", self.lm_eval_limit, "0 (all) or more")
