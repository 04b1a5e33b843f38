"""Evaluation: suites, juries, lm-eval, and paraphrases to evaluate on."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from raft_fast.run.options.option import Group, Part, check, option


@dataclass
class EvaluateOptions(Group):
    """Evaluation"""

    pins: ClassVar[Part] = "evaluation"

    eval_rows: int = option(0, pins="training", least=0, must="0 (all) or more")
    """Held-out rows to evaluate on at most, spread over the categories; 0 takes all."""
    eval_max_new_tokens: int = option(256, least=1)
    """Longest answer to a held-out question, in tokens."""
    general_prompts: int = option(0, least=-1, must="-1 (none), 0 (all) or more")
    """IFBench prompts at most (a fixed slice); 0 takes all that can be verified offline, -1 none."""
    general_max_new_tokens: int = option(512, least=1)
    """Longest answer to an IFBench prompt, in tokens."""
    drift_prompts: int = option(64, least=0)
    """IFBench prompts (a fixed slice) on which both models are compared token by token: KL of the
    trained from the base model, negative log-likelihood of the base's own answers and of the prompts'
    wording; 0 none."""
    drift_max_new_tokens: int = option(64, least=1)
    """Longest of the base's own answers that are compared, in tokens."""
    paraphrases: str | None = None
    """Paraphrased training questions (python -m raft_fast.paraphrase makes the file), to evaluate on beside
    the held-out rows."""
    eval_batch_size: int = option(32, pins="nothing", least=1)
    """Conversations generated at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        file = Path(self.paraphrases or "")
        check(self.paraphrases is None or (file.is_file() and file.stat().st_size > 0),
              "--paraphrases", self.paraphrases, "a file with rows (python -m raft_fast.paraphrase makes it)")


@dataclass
class BaseOptions(Group):
    """Comparison"""

    base: str | None = None
    """The model before training: a folder or a hub name. Default: the model that the run was trained
    from, as its config.yaml says."""


@dataclass
class JuryOptions(Group):
    """Jury"""

    pins: ClassVar[Part] = "evaluation"

    eval_judge: str = option("", listed=True, engines=True)
    """Engines that judge whether an answer agrees with the gold answer, separated by commas; the majority
    decides: as --judge of raft_fast.refine (self is the base model). Empty: no jury."""
    eval_quorum: int = option(0, least=0)
    """Judges that must vote for an answer to be judged. 0: more than half of them."""
    eval_prompts: str | None = None
    """A folder with your own jury.txt."""


@dataclass
class LMEvalOptions(Group):
    """lm-eval"""

    pins: ClassVar[Part] = "evaluation"

    lm_eval: str = option("", listed=True)
    """Tasks of lm-eval to run on both models, separated by commas: ifeval,hellaswag. Requires the package
    lm-eval, and the tasks' data from the hub or its cache. Empty: none."""
    lm_eval_limit: int = option(0, least=0, must="0 (all) or more")
    """Documents of each task at most; 0 takes all."""
    lm_eval_include: str | None = None
    """A folder with your own task files (lm-eval's YAML)."""


@dataclass
class ParaphraseOptions(Group):
    """Paraphrases"""

    paraphraser: str = option("self", engines=True)
    """Engine that paraphrases the questions: as --rewriter."""
    paraphrase_prompts: str | None = None
    """A folder with your own paraphrase.txt."""
    paraphrase_tau: float = option(0.8, least=-1, most=1)
    """Keep a paraphrase whose cosine similarity to the question is at least this."""
    paraphrase_max_new_tokens: int = option(96, least=1)
    """Longest paraphrase, in tokens; truncated ones are not used."""
    paraphrase_temperature: float = option(0.7, least=0)
    """Sampling temperature of paraphrases; 0 is greedy."""
