import json
import sys

import pytest
from evaluation.evaluation_stubs import OverlapEncoder, StubEngine

from raft_fast import models
from raft_fast import paraphrase as entry
from raft_fast.dataset import Row, read_table
from raft_fast.engines import Reply
from raft_fast.evaluation.paraphrases import objections, paraphrase

QUESTION = "How high may a fence of 30 m under PBL 9 kap. 2 § be?"


@pytest.mark.parametrize(("text", "said"), [
    ("Under PBL 9 kap. 2 §, how high may a fence of 30 m become?", None),
    ("how high may a fence of 30 m under PBL 9 kap. 2 § be", "the same words"),
    ("Under PBL 9 kap. 2 §, how high may a fence of 40 m become?", "other numbers"),
    ("Under PBL, how high may a fence of 30 m be?", "other legal references"),
    ("A fence of 30 m may be high under PBL 9 kap. 2 §.", "something else"),
    ("", "empty reply"),
])
def test_review(text, said):
    found = objections(QUESTION, Reply(text), 0.9, 0.8)
    assert (found == []) if said is None else (said in found[0])


def test_review_of_what_is_not_text():
    assert objections(QUESTION, Reply("x", error="down"), 0.9, 0.8) == ["no reply: down"]
    cut = Reply("Under PBL 9 kap. 2 §, may a fence of 30 m?", "length", completion_tokens=8)
    assert objections(QUESTION, cut, 0.5, 0.8) == [
        "cut off after 8 tokens", "similarity 0.500 is below --paraphrase_tau 0.8"]


def test_kept_ones_are_rows_with_the_turns_before():
    before = [{"role": "system", "content": "Be kind."}]
    question = {"role": "user", "content": "What is this?"}
    rows = [Row("a", [*before, question], "c", gold="That.", category="x"),
            Row("b", [{"role": "user", "content": "What?"}], "c", gold="No.")]
    replies = [Reply("This is what?"), Reply("What?")]
    kept, refused = paraphrase(rows, lambda asked: replies, OverlapEncoder(), 0.1)
    (one,) = kept
    assert one["prompt"] == [*before, {"role": "user", "content": "This is what?"}]
    assert (one["completion"], one["category"], one["original"]) == ("That.", "x", "What is this?")
    assert [(row["row_id"], row["reasons"]) for row in refused] == [("b", ["the same words as the question"])]


def test_the_entry_leaves_rows_and_provenance_and_asks_once(tmp_path, monkeypatch):
    rows = [{"id": f"r{i}", "question": f"What is thing {i} here?", "answer": f"It is {i}."}
            for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = []

    def answer(text):
        asked.append(text)
        return "So " + text.rsplit("Question: ", 1)[1]

    monkeypatch.setattr(models, "load_engine", lambda *_, **__: StubEngine(answer))
    monkeypatch.setattr(models, "load_encoder", lambda *_: OverlapEncoder())
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["paraphrase", "--data", "rows.jsonl", "--output_dir", "out",
                                          "--paraphrase_tau", "0.5"])
        entry.main()
    assert len(asked) == 4
    table = read_table("out/paraphrases.jsonl", 0)
    assert [(row.row_id, row.gold) for row in table.rows] == [(f"r{i}", f"It is {i}.") for i in range(4)]
    told = json.loads((tmp_path / "out/provenance.json").read_text())
    assert (told["made_by"], told["kept"], told["refused"]) == ("stub", 4, 0)
