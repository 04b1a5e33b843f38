"""Stage 1 (Eqs. 1-4)."""

from dataclasses import dataclass

from raft_fast.options.check import check


@dataclass
class RefineOptions:
    """Stage 1: refinement (Eqs. 1-4)"""

    rewriter: str = "self"
    """Who rewrites: self (the model), a folder or hub name, or MODEL@URL of an OpenAI-compatible
    server (URL alone takes the first model it serves; the key is read from OPENAI_API_KEY)."""
    fuser: str = "self"
    """Who merges gold and rewrite into the fused answer: as --rewriter."""
    judge: str = "self"
    """Who scores fusions; several judges separated by commas: as --rewriter."""
    tau: float = 0.8
    """Keep a rewrite whose cosine similarity to the gold answer is at least this (Eq. 3)."""
    fused_tau: float = 0.0
    """As tau, for fused answers; below it the row keeps what it had. 0: judges alone decide."""
    fusion_rounds: int = 3
    """Fusions drawn and judged for a row at most; the best mean score wins. 0: no fusion."""
    judge_stop: float = 0.8
    """No further round for a row once the mean score reaches this."""
    rewrite_max_new_tokens: int = 256
    """Longest rewrite or fusion, in tokens; one that is cut off is not used."""
    rewrite_temperature: float = 0.7
    """Sampling temperature of rewrites and fusions; 0 is greedy."""
    refine_batch_size: int = 32
    """Conversations generated at once in-process, or requests in flight to a server."""

    def __post_init__(self) -> None:
        for name in ("tau", "fused_tau", "judge_stop"):
            check(-1 <= getattr(self, name) <= 1, f"--{name}", getattr(self, name), "in [-1, 1]")
        for name in ("rewrite_max_new_tokens", "refine_batch_size"):
            check(getattr(self, name) >= 1, f"--{name}", getattr(self, name), "at least 1")
        check(self.fusion_rounds >= 0, "--fusion_rounds", self.fusion_rounds, "at least 0")
        check(self.rewrite_temperature >= 0, "--rewrite_temperature", self.rewrite_temperature,
              "at least 0")
