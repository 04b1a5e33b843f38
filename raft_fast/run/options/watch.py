"""Watching a run: evaluation while it trains, what is kept, and where numbers go."""

from dataclasses import dataclass, field

from raft_fast.run.options.check import check, listed


@dataclass
class WatchOptions:
    """Watching"""

    eval_steps: int = 0
    """Steps between evaluations during training; there is one before the first step and one after the
    last. 0: none."""
    eval_general_prompts: int = 16
    """IFBench prompts whose answers by the original model the student is held against (general drift);
    0 none."""
    eval_general_max_new_tokens: int = 64
    """Longest of those answers, in tokens."""
    load_best_model_at_end: bool = False
    """Keep the weights with the lowest eval_domain_nll, the negative log-likelihood of the held-out gold
    answers, and end with them. Chosen on those rows, their final scores are a little too good."""
    collapse_threshold: float = 1.0
    """Training ends early once an evaluation finds the student this many nats a token further from the
    original's own answers than the original is (a healthy run stays below 0.2), or a likelihood that is
    not finite."""
    log_completions: bool = False
    """Write sampled completions to completions.jsonl."""
    log_completions_steps: int = 10
    """Steps between them."""
    report_to: str = listed("none")
    """Trackers beside metrics.jsonl, separated by commas: tensorboard, wandb, trackio, or any other that
    accelerate knows. Their packages must be installed."""
    push_to_hub: bool = field(default=False, metadata={
        "must": "true or false, with the repository as in --push_to_hub true --hub_model_id TOLD"})
    """Upload RUN/model to the hub at the end, with the token of HF_TOKEN or hf auth login."""
    hub_model_id: str | None = None
    """The repository: user/name, or name. Default: the name of --output_dir."""
    hub_private_repo: bool = True
    """Make the repository private; one that is there stays as it is."""

    def __post_init__(self) -> None:
        for name in ("eval_steps", "eval_general_prompts"):
            check(getattr(self, name) >= 0, f"--{name}", getattr(self, name), "0 (none) or more")
        for name in ("eval_general_max_new_tokens", "log_completions_steps"):
            check(getattr(self, name) >= 1, f"--{name}", getattr(self, name), "at least 1")
        check(self.collapse_threshold > 0, "--collapse_threshold", self.collapse_threshold, "above 0")
        check(self.eval_steps > 0 or not self.load_best_model_at_end, "--load_best_model_at_end", True,
              "false where --eval_steps is 0: nothing is evaluated")
