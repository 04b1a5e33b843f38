"""Rewording trained questions for evaluation."""

from dataclasses import dataclass

from raft_fast.run.options.check import check


@dataclass
class ParaphraseOptions:
    """Paraphrases"""

    paraphraser: str = "self"
    """Who rewords the questions: as --rewriter."""
    paraphrase_prompts: str | None = None
    """A folder with your own paraphrase.txt."""
    paraphrase_tau: float = 0.8
    """Keep a paraphrase whose cosine similarity to the question is at least this."""
    paraphrase_max_new_tokens: int = 96
    """Longest paraphrase, in tokens; one that is cut off is not used."""
    paraphrase_temperature: float = 0.7
    """Sampling temperature of paraphrases; 0 is greedy."""

    def __post_init__(self) -> None:
        check(-1 <= self.paraphrase_tau <= 1, "--paraphrase_tau", self.paraphrase_tau, "in [-1, 1]")
        check(self.paraphrase_max_new_tokens >= 1, "--paraphrase_max_new_tokens",
              self.paraphrase_max_new_tokens, "at least 1")
        check(self.paraphrase_temperature >= 0, "--paraphrase_temperature", self.paraphrase_temperature,
              "at least 0")
