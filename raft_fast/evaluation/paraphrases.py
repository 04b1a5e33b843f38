"""Trained questions in other words: was an answer learnt, or only the wording of its question?"""

from collections.abc import Callable, Sequence
from typing import Any

from raft_fast.dataset import Row
from raft_fast.engines import Message, Reply
from raft_fast.evaluation.domain import SimilarityEncoder, score_answer, words

PROMPT = ("Ask the question below in other words. Keep every fact, number, name and legal reference. "
          "Write only the new question.\n\nQuestion: {question}")
VERSION = "paraphrase-1"  # of the words above: other words, another version
Record = dict[str, Any]


def paraphrase(rows: Sequence[Row], ask: Callable[[list[list[Message]]], Sequence[Reply]],
               encoder: SimilarityEncoder, tau: float) -> tuple[list[Record], list[Record]]:
    """(kept, refused): each row's last question reworded once, the turns before it as they are.

    Kept records read as rows: prompt, completion (the gold answer), category, and where they come from
    (`original`, `similarity`). Refused ones have the paraphrase and the reasons.
    """
    questions = [row.prompt[-1]["content"] for row in rows]
    replies = ask([[*row.prompt[:-1], Message(role="user", content=PROMPT.format(question=question))]
                   for row, question in zip(rows, questions, strict=True)])
    alike = encoder.similarities(questions, [reply.text for reply in replies])
    kept, refused = [], []
    for row, question, reply, similarity in zip(rows, questions, replies, alike, strict=True):
        text = reply.text.strip()
        about = {"row_id": row.row_id, "original": question, "similarity": similarity}
        if reasons := objections(question, reply, similarity, tau):
            refused.append({**about, "paraphrase": text, "reasons": reasons})
        else:
            kept.append({**about, "prompt": [*row.prompt[:-1], Message(role="user", content=text)],
                         "completion": row.gold, "category": row.category})
    return kept, refused


def objections(question: str, reply: Reply, similarity: float, tau: float) -> list[str]:
    """Why a paraphrase cannot be used; empty where it can."""
    if reply.error is not None:
        return [f"no reply: {reply.error}"]
    text = reply.text.strip()
    if not text:
        return ["empty reply"]
    both = [score_answer(question, text), score_answer(text, question)]  # nothing lost, nothing made up
    found = {
        f"cut off after {reply.completion_tokens} tokens": reply.finish_reason == "length",
        "the same words as the question": words(text) == words(question),
        "other numbers": any(one["number_f1"] not in (None, 1.0) for one in both),
        "other legal references": any(one["reference_f1"] not in (None, 1.0) for one in both),
        "a question became something else": "?" in question and "?" not in text,
        f"similarity {similarity:.3f} is below --paraphrase_tau {tau:g}": not similarity >= tau,
    }
    return [reason for reason, holds in found.items() if holds]
