"""The domain: generated answers to held-out questions, held against the gold answers."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from raft_fast.data.dataset import Row
from raft_fast.data.texts import Message, letters
from raft_fast.engines import Engine, Reply, Sampling
from raft_fast.evaluation.statistics import Mean, Pair, weighted_mean
from raft_fast.refinement.facts import numbers, references, set_f1
from raft_fast.run.progress import Reporter

# key in the records and in evaluation.json -> is more better?
METRICS = {"token_f1": True, "similarity": True, "number_f1": True, "reference_f1": True,
           "nll": False}
WORD = re.compile(r"\w+")


class SimilarityEncoder(Protocol):
    """What the evaluation needs of a sentence encoder."""

    def similarities(self, left: Sequence[str], right: Sequence[str]) -> list[float]:
        """Cosine similarity of each pair."""
        ...


class ScoringEngine(Engine, Protocol):
    """An engine that also knows how likely a given completion is; local ones do."""

    def nll(self, conversations: Sequence[list[Message]],
            completions: Sequence[str]) -> Iterator[tuple[int, tuple[float, int]]]:
        """Yield (index, (summed negative log-likelihood in nats, tokens))."""
        ...


@dataclass(frozen=True)
class DomainScores:
    """One model on the held-out rows: a record for each row, in their order, and the means."""

    records: list[dict[str, Any]]
    means: dict[str, Mean]

    @classmethod
    def of(cls, records: list[dict[str, Any]]) -> "DomainScores":
        """The means that the records have."""
        return cls(records, {metric: weighted_mean([_part(record, metric) for record in records])
                             for metric in METRICS})

    def parts(self, metric: str) -> list[Pair | None]:
        """(value, weight) of every row for a metric of `METRICS`."""
        return [_part(record, metric) for record in self.records]


def evaluate_domain(engine: Engine, rows: Sequence[Row], max_new_tokens: int,
                    encoder: SimilarityEncoder, reporter: Reporter, name: str,
                    part: str = "domain") -> DomainScores:
    """Answer every row greedily and score the answers; `name` is base or trained, `part` what the rows
    are called in the progress.

    The gold answer's negative log-likelihood is null for engines that cannot tell it. A row whose
    generation failed has no scores and the reason under `error`.
    """
    prompts = [row.prompt for row in rows]
    replies = collect(engine, prompts, max_new_tokens, reporter, f"evaluate {name}: {part}")
    likelihoods = _gold_nll(engine, rows, reporter, name)
    answers = [reply.text.strip() for reply in replies]
    similarities = encoder.similarities([row.gold for row in rows], answers)
    records = []
    for row, reply, answer, similarity, nll in zip(
            rows, replies, answers, similarities, likelihoods, strict=True):
        # an encoder gives an empty text some vector; nothing said is nothing alike
        alike = similarity if answer and math.isfinite(similarity) else 0.0
        scores = score_answer(row.gold, answer) | {"similarity": alike}
        if reply.error is not None:
            scores = dict.fromkeys(scores)
        records.append({
            "row_id": row.row_id, "category": row.category, "prompt": row.prompt, "gold": row.gold,
            "answer": answer, "finish_reason": reply.finish_reason, "error": reply.error, **scores,
            "nll_sum": nll[0] if nll else None, "nll_tokens": nll[1] if nll else None})
    return DomainScores.of(records)


def score_answer(gold: str, answer: str) -> dict[str, float | None]:
    """What the two texts alone tell: token F1, agreement of numbers and of legal references."""
    return {"token_f1": token_f1(gold, answer),
            "number_f1": set_f1(numbers(gold), numbers(answer)),
            "reference_f1": set_f1(references(gold), references(answer))}


def token_f1(gold: str, answer: str) -> float:
    """F1 of the two bags of words, after Unicode normalisation, without case and punctuation."""
    left, right = Counter(words(gold)), Counter(words(answer))
    total = left.total() + right.total()
    return 2 * (left & right).total() / total if total else 1.0


def words(text: str) -> list[str]:
    """Normalised words of a text, in any language that separates them."""
    return WORD.findall(letters(text))


def collect(engine: Engine, prompts: Sequence[list[Message]], max_new_tokens: int,
            reporter: Reporter, phase: str) -> list[Reply]:
    """Greedy replies in the order of `prompts`, with progress."""
    replies: dict[int, Reply] = {}
    under_way = getattr(engine, "under_way", "")
    with reporter.phase(phase, len(prompts), "answers") as advance:
        advance(0, note=under_way)
        for index, reply in engine.generate(prompts, Sampling(max_new_tokens)):
            replies[index] = reply
            advance(note=under_way)
    return [replies[index] for index in range(len(prompts))]


def _gold_nll(engine: Engine, rows: Sequence[Row], reporter: Reporter,
              name: str) -> list[tuple[float, int] | None]:
    found: list[tuple[float, int] | None] = [None] * len(rows)
    if not hasattr(engine, "nll"):
        return found
    scorer = cast(ScoringEngine, engine)
    with reporter.phase(f"evaluate {name}: gold likelihood", len(rows), "rows") as advance:
        for index, value in scorer.nll([row.prompt for row in rows], [row.gold for row in rows]):
            found[index] = value if math.isfinite(value[0]) else None  # a diverged model has no likelihood
            advance()
    return found


def _part(record: dict[str, Any], metric: str) -> Pair | None:
    if metric == "nll":  # total over total: every gold token counts the same
        return None if record["nll_sum"] is None else (record["nll_sum"], record["nll_tokens"])
    return None if record[metric] is None else (record[metric], 1.0)
