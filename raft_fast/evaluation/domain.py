"""Domain scores: generated answers to held-out questions compared with the gold answers."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from raft_fast.data.dataset import Row
from raft_fast.data.texts import letters
from raft_fast.engines import Engine
from raft_fast.evaluation.scores import WORD, Record, Scores, collect
from raft_fast.evaluation.statistics import Pair
from raft_fast.refinement.checks.numbers import number_set
from raft_fast.run.progress import Reporter

# key in the records and in evaluation.json -> is higher better?
METRICS = {"token_f1": True, "similarity": True, "number_f1": True, "nll": False}


class SimilarityEncoder(Protocol):
    """What the evaluation needs of a sentence encoder."""

    def similarities(self, left: Sequence[str], right: Sequence[str]) -> list[float]:
        """Cosine similarity of each pair."""
        ...


def domain_scores(records: list[Record]) -> Scores:
    """Scores from records that `evaluate_domain` made."""
    return Scores(records, METRICS, _pair)


def evaluate_domain(engine: Engine, rows: Sequence[Row], max_new_tokens: int, encoder: SimilarityEncoder,
                    reporter: Reporter, name: str, part: str = "domain") -> Scores:
    """Answer every row greedily and score the answers; `name` (base, trained) and `part` are for progress.

    The gold answer's negative log-likelihood is null for engines without `nll`. A row without a gold answer
    has no scores; nor has one whose generation failed, which has the reason under `error`.
    """
    replies = collect(engine, [row.prompt for row in rows], max_new_tokens, reporter,
                      f"evaluate {name}: {part}")
    likelihoods = _gold_nll(engine, rows, reporter, name)
    answers = [reply.text.strip() for reply in replies]
    similarities = encoder.similarities([row.gold for row in rows], answers)
    records = []
    for row, reply, answer, similarity, (nats, tokens) in zip(
            rows, replies, answers, similarities, likelihoods, strict=True):
        # encoders embed an empty text somewhere; it is similar to nothing
        alike = similarity if answer and math.isfinite(similarity) else 0.0
        scores = score_answer(row.gold, answer) | {"similarity": alike}
        if reply.error is not None or not row.gold:
            scores = dict.fromkeys(scores)
        records.append({
            "row_id": row.row_id, "category": row.category, "prompt": row.prompt, "gold": row.gold,
            "answer": answer, "finish_reason": reply.finish_reason, "error": reply.error, **scores,
            "nll_sum": nats, "nll_tokens": tokens})
    return domain_scores(records)


def score_answer(gold: str, answer: str) -> dict[str, float | None]:
    """Token F1, and F1 of the numbers with their units; null where the gold answer has none."""
    wanted, found = number_set(gold), number_set(answer)
    return {"token_f1": token_f1(gold, answer),
            "number_f1": 2 * len(wanted & found) / (len(wanted) + len(found)) if wanted else None}


def token_f1(gold: str, answer: str) -> float:
    """F1 of two bags of words, after Unicode normalisation, without case and punctuation."""
    left, right = (Counter(WORD.findall(letters(text))) for text in (gold, answer))
    total = left.total() + right.total()
    return 2 * (left & right).total() / total if total else 1.0


def _gold_nll(engine: Any, rows: Sequence[Row], reporter: Reporter, name: str
              ) -> list[tuple[float | None, int | None]]:
    """(nats, tokens) of every gold answer; nulls where the engine has no likelihoods or one is not finite."""
    found: list[tuple[float | None, int | None]] = [(None, None)] * len(rows)
    places = [place for place, row in enumerate(rows) if row.gold]
    if not (places and hasattr(engine, "nll")):
        return found
    with reporter.phase(f"evaluate {name}: gold likelihood", len(places), "rows") as advance:
        for index, (nats, tokens) in engine.nll([rows[place].prompt for place in places],
                                                [rows[place].gold for place in places]):
            if math.isfinite(nats):  # a diverged model's is not
                found[places[index]] = (nats, tokens)
            advance()
    return found


def _pair(record: Record, metric: str) -> Pair | None:
    if metric == "nll":  # total over total: every gold token counts the same
        return None if record["nll_sum"] is None else (record["nll_sum"], record["nll_tokens"])
    return None if record[metric] is None else (record[metric], 1.0)
