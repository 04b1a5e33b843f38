"""The semantic filter (Eqs. 2-3), and the plain reasons why an answer cannot be used."""

import math
from collections.abc import Sequence
from typing import Protocol

from raft_fast.dataset import Row
from raft_fast.engines import Reply
from raft_fast.refinement.decisions import Checks, Filtered


class SimilarityEncoder(Protocol):
    """φ of Eq. 2."""

    def similarities(self, left: Sequence[str], right: Sequence[str]) -> list[float]:
        """The cosine of each pair."""
        ...


def filter_rewrites(
    rows: Sequence[Row], rewrites: Sequence[Reply], encoder: SimilarityEncoder, tau: float
) -> list[Filtered]:
    """s = cos(φ(y), φ(ỹ)) and ȳ = ỹ if s >= τ, else y (Eqs. 2-3)."""
    similarities = similarity_to_gold([row.gold for row in rows], rewrites, encoder)
    return [
        Filtered(row, reply, similarity,
                 plain_checks(reply, row.gold) | {"similarity": below(similarity, tau, "--tau")})
        for row, reply, similarity in zip(rows, rewrites, similarities, strict=True)
    ]


def similarity_to_gold(
    golds: Sequence[str], replies: Sequence[Reply], encoder: SimilarityEncoder
) -> list[float | None]:
    """Eq. 2 for every reply that says something; None for others, and where φ gives no number."""
    asked = [place for place, reply in enumerate(replies) if reply.text.strip()]
    values = encoder.similarities([golds[place] for place in asked],
                                  [replies[place].text for place in asked])
    found: list[float | None] = [None] * len(replies)
    for place, value in zip(asked, values, strict=True):
        found[place] = value if math.isfinite(value) else None
    return found


def plain_checks(reply: Reply, gold: str) -> Checks:
    """What needs no model and no option: failed, empty, cut off, or nothing but the gold answer."""
    return {
        "reply": f"no reply: {reply.error}" if reply.error is not None else None,
        "empty": None if reply.error is not None or reply.text.strip() else "empty reply",
        "cut_off": (f"cut off after {reply.completion_tokens} tokens"
                    if reply.finish_reason == "length" else None),
        "copy": ("the same words as the gold answer"
                 if _words(reply.text) == _words(gold) else None),
    }


def below(similarity: float | None, threshold: float, option: str) -> str | None:
    """Eq. 3's objection, where there is one."""
    if similarity is None:
        return "no similarity to the gold answer"
    if similarity < threshold:
        return f"similarity {similarity:.3f} is below {option} {threshold:g}"
    return None


def _words(text: str) -> list[str]:
    return text.split()
