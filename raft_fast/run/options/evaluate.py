"""Evaluation, and what a trained model is compared with."""

from dataclasses import dataclass
from pathlib import Path

from raft_fast.run.options.check import check


@dataclass
class EvaluateOptions:
    """Evaluation"""

    eval_rows: int = 0
    """Held-out rows to evaluate on at most, spread over the categories; 0 takes all."""
    eval_max_new_tokens: int = 256
    """Longest answer to a held-out question, in tokens."""
    general_prompts: int = 0
    """IFBench prompts at most (a fixed slice); 0 takes all that can be verified offline,
    -1 none."""
    general_max_new_tokens: int = 512
    """Longest answer to an IFBench prompt, in tokens."""
    drift_prompts: int = 64
    """IFBench prompts (a fixed slice) on which both models are compared token by token: KL of the
    trained from the base model, negative log-likelihood of the base's own answers and of the prompts'
    wording; 0 none."""
    drift_max_new_tokens: int = 64
    """Longest of the base's own answers that are compared, in tokens."""
    paraphrases: str | None = None
    """Training questions in other words (python -m raft_fast.paraphrase makes the file), to evaluate
    on beside the held-out rows."""
    eval_batch_size: int = 32
    """Conversations generated at once."""

    def __post_init__(self) -> None:
        for name in ("eval_max_new_tokens", "general_max_new_tokens", "drift_max_new_tokens",
                     "eval_batch_size"):
            check(getattr(self, name) >= 1, f"--{name}", getattr(self, name), "at least 1")
        check(self.eval_rows >= 0, "--eval_rows", self.eval_rows, "0 (all) or more")
        reworded = Path(self.paraphrases or "")
        check(self.paraphrases is None or (reworded.is_file() and reworded.stat().st_size > 0),
              "--paraphrases", self.paraphrases, "a file with rows (python -m raft_fast.paraphrase makes it)")
        check(self.drift_prompts >= 0, "--drift_prompts", self.drift_prompts, "0 (none) or more")
        check(self.general_prompts >= -1, "--general_prompts", self.general_prompts,
              "-1 (none), 0 (all) or more")


@dataclass
class BaseOptions:
    """Comparison"""

    base: str | None = None
    """The model before training: a folder or a hub name. Default: the model that the run was trained
    from, as its config.yaml says."""
