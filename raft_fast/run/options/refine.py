"""Stage 1 (Eqs. 1-4): what is made, and how it is run."""

import re
from dataclasses import dataclass

from raft_fast.run.options.check import check, listed
from raft_fast.run.options.secrets import refuse_in_urls


@dataclass
class RefineOptions:
    """Stage 1: refinement (Eqs. 1-4)"""

    rewriter: str = "self"
    """Who rewrites: self (the model), a folder or hub name, or MODEL@URL of an OpenAI-compatible
    server (URL alone takes the first model it serves; MODEL@URL+URL+... are replicas; the key is read
    from OPENAI_API_KEY, or from NAME where the URL ends in #NAME)."""
    fuser: str = "self"
    """Who merges gold and rewrite into the fused answer: as --rewriter."""
    judge: str = listed("self")
    """Who scores fusions; several judges separated by commas: as --rewriter."""
    prompts: str | None = None
    """A folder with your own rewrite.txt, fuse.txt or judge.txt; what it lacks is the shipped one."""
    tau: float = 0.8
    """Keep a rewrite whose cosine similarity to the gold answer is at least this (Eq. 3)."""
    fused_tau: float = 0.0
    """As tau, for fused answers; below it the row keeps what it had. 0: judges alone decide."""
    fused_least: float = 0.0
    """Mean score below which a fusion is not used and the row keeps its rewrite. 0: as in the paper, the
    best one is used however low."""
    skip_checks: str = listed("")
    """Checks of rewrites and fusions not to make, separated by commas: cut_off, copy, length, refusal,
    loops, leak, marks, language, numbers, references, negation, bounds, duty, retrieval (docs/methods/raft.md)."""
    fusion_rounds: int = 3
    """Fusions drawn and judged for a row at most; the best mean score wins. 0: no fusion."""
    judge_stop: float = 0.8
    """No further round for a row once the mean score reaches this."""
    quorum: int = 0
    """Judges that must give a score for a fusion to have one. 0: more than half of them."""
    rewrite_max_new_tokens: int = 256
    """Longest rewrite or fusion, in tokens; one that is cut off is not used."""
    rewrite_temperature: float = 0.7
    """Sampling temperature of rewrites and fusions; 0 is greedy."""
    supervision_gap: bool = True
    """Record how likely the rewriter finds gold, rewrite and fused answer: one forward pass an answer.
    Only a rewriter in this process can tell."""
    refine_batch_size: int = 32
    """Conversations generated at once in-process; servers have --requests_in_flight."""

    def __post_init__(self) -> None:
        for name in ("rewriter", "fuser", "judge"):
            refuse_in_urls(f"--{name}", getattr(self, name))
        for name in ("tau", "fused_tau", "judge_stop"):
            check(-1 <= getattr(self, name) <= 1, f"--{name}", getattr(self, name), "in [-1, 1]")
        check(0 <= self.fused_least <= 1, "--fused_least", self.fused_least, "in [0, 1]")
        for name in ("rewrite_max_new_tokens", "refine_batch_size"):
            check(getattr(self, name) >= 1, f"--{name}", getattr(self, name), "at least 1")
        for name in ("fusion_rounds", "quorum"):
            check(getattr(self, name) >= 0, f"--{name}", getattr(self, name), "at least 0")
        check(self.rewrite_temperature >= 0, "--rewrite_temperature", self.rewrite_temperature,
              "at least 0")


@dataclass
class RefineRunOptions:
    """How stage 1 is run"""

    retry_failed: bool = False
    """Ask again for what engines could not answer in a run that came to its end."""
    overwrite: bool = False
    """Replace finished answers in OUTPUT_DIR that other rows or options made; otherwise they are kept and
    the run is refused."""
    shard: str | None = None
    """i/n: refine every n-th row from the i-th (from 1) on into OUTPUT_DIR/shards; the last shard to
    finish joins all into the files of a run without shards."""
    dry_run: bool = False
    """Count rows, requests and tokens, show a prompt of every kind; ask no engine, write nothing."""
    merge: bool = False
    """Only join the shards in OUTPUT_DIR, as when they were refined on other machines."""

    def __post_init__(self) -> None:
        if self.shard is not None:
            match = re.fullmatch(r"(\d+)/(\d+)", self.shard)
            check(match is not None and 1 <= int(match[1]) <= int(match[2]), "--shard", self.shard,
                  "i/n with i from 1 to n, as in 2/8")
