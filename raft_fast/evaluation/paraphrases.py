"""Trained questions reworded: was an answer learnt, or only the wording of its question?"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from raft_fast.data.dataset import Row
from raft_fast.data.texts import Message
from raft_fast.engines import Reply
from raft_fast.engines.asking import Prompt
from raft_fast.evaluation.domain import SimilarityEncoder
from raft_fast.refinement.checks import Case, check
from raft_fast.run.errors import UserError

Record = dict[str, Any]
DEFAULT_ID = re.compile(r"row-\d{6,}")  # of rows without one of their own


def paraphrase(rows: Sequence[Row], ask: Callable[[list[list[Message]]], Sequence[Reply]],
               encoder: SimilarityEncoder, tau: float, prompt: Prompt) -> tuple[list[Record], list[Record]]:
    """(kept, refused): each row's last question reworded once; the turns before it stay.

    Kept records read as rows: prompt, completion (the gold answer), category, and their origin (`original`,
    `similarity`). Refused ones hold the paraphrase and the reasons.
    """
    questions = [row.prompt[-1]["content"] for row in rows]
    replies = ask([[*row.prompt[:-1], Message(role="user", content=prompt.fill(question=question))]
                   for row, question in zip(rows, questions, strict=True)])
    alike = encoder.similarities(questions, [reply.text for reply in replies])
    kept, refused = [], []
    for row, question, reply, similarity in zip(rows, questions, replies, alike, strict=True):
        text = reply.text.strip()
        about = {"row_id": row.row_id, "original": question, "similarity": similarity}
        if reasons := objections(question, reply, similarity, tau, prompt.text):
            refused.append({**about, "paraphrase": text, "reasons": reasons})
        else:
            kept.append({**about, "prompt": [*row.prompt[:-1], Message(role="user", content=text)],
                         "completion": row.gold, "category": row.category})
    return kept, refused


def objections(question: str, reply: Reply, similarity: float, tau: float,
               instructions: str = "") -> list[str]:
    """Why a paraphrase cannot be used; empty if it can. Stage 1's checks compare it with the question as they
    compare a rewrite with its gold answer: numbers, references, negation, language, copies, ..."""
    case = Case(question, question, replace(reply, text=reply.text.strip()), instructions)
    found = check(case)
    reasons = [reason.replace("the gold answer", "the question") for reason in found.values() if reason]
    if found["reply"] or found["empty"]:
        return reasons
    if "?" in question and "?" not in case.answer:
        reasons.append("no longer a question")
    if not similarity >= tau:
        reasons.append(f"similarity {similarity:.3f} is below --paraphrase_tau {tau:g}")
    return reasons


def of_trained(paraphrases: Sequence[Row], trained: Sequence[Row], name: str) -> list[Row]:
    """The paraphrases of rows that are trained on: by row_id, or by gold answer if the file has other ids or
    none. Raises UserError if there are none: such a file measures something else."""
    golds = {row.row_id: row.gold for row in trained}
    found = [row for row in paraphrases if row.row_id in golds]
    # a default id is a line number: of this file, or of the rows' own file if all gold answers agree
    if any(DEFAULT_ID.fullmatch(row.row_id) and row.gold != golds[row.row_id] for row in found):
        found = []
    answers = set(golds.values())
    found = found or [row for row in paraphrases if row.gold in answers]
    if not found:
        raise UserError(f"{name}: none of its {len(paraphrases)} rows rewords one of the {len(trained)} rows "
                        "that are trained on (no row_id or gold answer in common)")
    return found
