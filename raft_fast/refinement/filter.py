"""The semantic filter (Eqs. 2-3): does an answer still say what the gold answer says?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raft_fast.data.dataset import Row
from raft_fast.data.neighbours import SentenceEncoder
from raft_fast.engines import Reply
from raft_fast.engines.prompting import Prompt, whole_question
from raft_fast.refinement.checks import CHECKS, Case, Checks, check
from raft_fast.refinement.decisions import Filtered
from raft_fast.refinement.retrieval import RETRIEVAL, GoldIndex
from raft_fast.run.errors import UserError
from raft_fast.run.options import RefineOptions

SIMILARITY_DIGITS = 6


@dataclass(frozen=True)
class Filter:
    """What a rewrite or a fusion has to pass.

    `golds` are the gold answers that a rewrite is told apart from; without them `retrieval` is not
    checked. Checks in `skip` are not made.
    """

    encoder: SentenceEncoder
    tau: float
    fused_tau: float = 0.0
    skip: frozenset[str] = frozenset()
    golds: GoldIndex | None = None

    @classmethod
    def of(cls, options: RefineOptions, encoder: SentenceEncoder, golds: GoldIndex | None) -> "Filter":
        """The filter that the options ask for. Raises UserError for a check that there is none of."""
        skip = skipped(options.skip_checks)
        return cls(encoder, options.tau, options.fused_tau, skip, None if RETRIEVAL in skip else golds)

    def rewrites(self, rows: Sequence[Row], replies: Sequence[Reply], prompt: Prompt) -> list[Filtered]:
        """s = cos(φ(y), φ(ỹ)) and ȳ = ỹ if s >= τ, else y (Eqs. 2-3)."""
        gold_vectors, vectors = self._embed(rows, replies)
        found = []
        for row, reply, similarity in zip(rows, replies, cosines(gold_vectors, vectors), strict=True):
            checks = check(case_of(row, reply, prompt), self.skip)
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
            checks = check(case_of(row, reply, prompt), self.skip)
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


def skipped(names: str) -> frozenset[str]:
    """The checks that --skip_checks names. Raises UserError for a name that is none of them."""
    skip = frozenset(name.strip() for name in names.split(",") if name.strip())
    known = [*CHECKS, RETRIEVAL]
    if unknown := sorted(skip - set(known)):
        raise UserError(f"--skip_checks {', '.join(unknown)}: no such check; there are {', '.join(known)}")
    return skip


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
