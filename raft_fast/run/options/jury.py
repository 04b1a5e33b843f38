"""Who judges the answers of an evaluation."""

from dataclasses import dataclass

from raft_fast.run.options.check import check, listed
from raft_fast.run.options.secrets import refuse_in_urls


@dataclass
class JuryOptions:
    """Jury"""

    eval_judge: str = listed("")
    """Who says whether an answer agrees with the gold answer; several judges separated by commas, and
    the majority decides: as --judge of raft_fast.refine (self is the base model). Empty: no jury."""
    eval_quorum: int = 0
    """Judges that must give a vote for an answer to be judged. 0: more than half of them."""
    eval_prompts: str | None = None
    """A folder with your own jury.txt."""

    def __post_init__(self) -> None:
        refuse_in_urls("--eval_judge", self.eval_judge)
        check(self.eval_quorum >= 0, "--eval_quorum", self.eval_quorum, "at least 0")
