"""The semantic filter (Eqs. 2-3): does an answer still say what the gold answer says?"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from raft_fast.data.dataset import Row
from raft_fast.data.vectors import SentenceEncoder
from raft_fast.engines import Reply
from raft_fast.engines.prompting import Prompt, whole_question
from raft_fast.refinement.checks import RETRIEVAL, Case, Checker, Checks
from raft_fast.refinement.decisions import Filtered
from raft_fast.refinement.retrieval import GoldIndex
from raft_fast.run.options import RefineOptions

SIMILARITY_DIGITS = 6


@dataclass(frozen=True)
class Filter:
    """What a rewrite or a fusion has to pass.

    `golds` are the gold answers that a rewrite is told apart from; without them `retrieval` is not
    checked.
    """

    encoder: SentenceEncoder
    tau: float
    fused_tau: float = 0.0
    check: Checker = field(default_factory=Checker)
    golds: GoldIndex | None = None

    @classmethod
    def of(cls, options: RefineOptions, encoder: SentenceEncoder, golds: GoldIndex | None) -> "Filter":
        """The filter that the options ask for. Raises UserError for an unknown check."""
        check = Checker.of(options)
        return cls(encoder, options.tau, options.fused_tau, check, None if RETRIEVAL in check.skip else golds)

    def rewrites(self, rows: Sequence[Row], replies: Sequence[Reply], prompt: Prompt) -> list[Filtered]:
        """s = cos(φ(y), φ(ỹ)) and ȳ = ỹ if s >= τ, else y (Eqs. 2-3)."""
        gold_vectors, vectors = self._embed(rows, replies)
        found = []
        for row, reply, similarity in zip(rows, replies, cosines(gold_vectors, vectors), strict=True):
            checks = self.check(case_of(row, reply, prompt))
            found.append(Filtered(row, reply, similarity,
                                  checks | {"similarity": below(similarity, self.tau, "--tau")}))
        if self.golds is not None:
            for one, objection in zip(found, self.golds.objections(gold_vectors, vectors), strict=True):
                one.checks[RETRIEVAL] = objection if one.similarity is not None else None
        return found

    def fusions(
        self, rows: Sequence[Row], replies: Sequence[Reply], prompt: Prompt
    ) -> list[tuple[float | None, Checks]]:
        """The similarity of each fusion and what is wrong with it; the judges decide about the rest."""
        found = []
        for row, reply, similarity in zip(rows, replies, cosines(*self._embed(rows, replies)), strict=True):
            checks = self.check(case_of(row, reply, prompt))
            if self.fused_tau:
                checks["similarity"] = below(similarity, self.fused_tau, "--fused_tau")
            found.append((similarity, checks))
        return found

    def _embed(self, rows: Sequence[Row], replies: Sequence[Reply]) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors of gold answers and of replies."""
        golds, texts = [row.gold for row in rows], [reply.text for reply in replies]
        if self.golds is not None:  # embedded already
            return self.golds.of_texts(golds, self.encoder), self.encoder.embed(texts)
        vectors = self.encoder.embed(golds + texts)
        return vectors[: len(rows)], vectors[len(rows) :]


def case_of(row: Row, reply: Reply, prompt: Prompt) -> Case:
    """A reply to a row as the checks see it."""
    return Case(whole_question(row.prompt), row.gold, reply, prompt.text)


def cosines(left: np.ndarray, right: np.ndarray) -> list[float | None]:
    """Eq. 2 for rows of unit vectors; None where either is zero, that is, where φ made nothing."""
    values = (left.astype(np.float64) * right).sum(-1)
    known = np.isfinite(values) & left.any(-1) & right.any(-1)
    return [round(float(value), SIMILARITY_DIGITS) if there else None
            for value, there in zip(values, known, strict=True)]


def below(similarity: float | None, threshold: float, option: str) -> str | None:
    """Eq. 3's objection, where there is one."""
    if similarity is None:
        return "no similarity to the gold answer"
    if similarity < threshold:
        return f"similarity {similarity:.3f} is below {option} {threshold:g}"
    return None
