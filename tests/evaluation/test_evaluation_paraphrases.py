import json
import sys

import pytest
from evaluation.evaluation_stubs import OverlapEncoder, StubEngine

from raft_fast import paraphrase as entry
from raft_fast.data.dataset import read_table
from raft_fast.engines import Reply
from raft_fast.models import load as models
from raft_fast.paraphrase import objections

FENCE = "How high may a fence of 30 m under PBL 9 kap. 2 § be?"
HEIGHT = "Must a building with two storeys not be higher than 8 m?"


@pytest.mark.parametrize(("question", "reply", "said"), [
    (FENCE, Reply("Under PBL 9 kap. 2 §, how high may a fence of 30 m become?"), []),
    (FENCE, Reply(FENCE.upper()), ["the same words as the question"]),
    (FENCE, Reply("Under PBL 9 kap. 2 §, how high may a fence of 40 m become?"), ["lacks 30 m; adds 40 m"]),
    (FENCE, Reply("A fence of 30 m may be high under PBL 9 kap. 2 §."), ["no longer a question"]),
    (FENCE, Reply("", error="down"), ["no reply: down"]), (FENCE, Reply(""), ["empty reply"]),
    (HEIGHT, Reply("May no building with two storeys be higher than 8 m?"), []),
    (HEIGHT, Reply("Must a building with two storeys be higher than 8 m?"), ["'bound 8' is low"])])
def test_stage_1s_checks_review_a_paraphrase(question, reply, said):
    found = objections(question, reply, 0.9, 0.8)
    assert len(found) == len(said), found
    assert all(one in reason for one, reason in zip(said, found, strict=True))
    low = objections(question, reply, 0.5, 0.8)
    assert low == [*found, *["similarity 0.500 is below --paraphrase_tau 0.8"] * bool(reply.text)]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command on four rows in the working directory, with a stub engine."""
    (tmp_path / "rows.jsonl").write_text("".join(
        f'{{"id": "r{i}", "question": "What is thing {i} here?", "answer": "It is {i}."}}\n'
        for i in range(4)))
    monkeypatch.setattr(models, "load_encoder", lambda *_: OverlapEncoder())
    monkeypatch.chdir(tmp_path)

    def run(engine):
        monkeypatch.setattr("raft_fast.engines.load.load_engine", lambda *_, **__: engine)
        monkeypatch.setattr(sys, "argv", ["paraphrase", "--data", "rows.jsonl", "--output_dir", "out",
                                          "--paraphrase_tau", "0.5"])
        entry.main()

    return run


def test_the_entry_leaves_rows_and_provenance_and_asks_once(tmp_path, command):
    asked = []

    def answer(text):
        asked.append(text)
        return "So " + text.rsplit("Question: ", 1)[1]

    for _ in range(2):
        command(StubEngine(answer))
    assert len(asked) == 4
    table = read_table("out/paraphrases.jsonl", 0)
    assert [(row.row_id, row.gold) for row in table.rows] == [(f"r{i}", f"It is {i}.") for i in range(4)]
    made = json.loads((tmp_path / "out/provenance.json").read_text())
    assert (made["made_by"], made["kept"], made["refused"]) == ("stub", 4, 0)
    assert made["prompt"].startswith("paraphrase-")
    assert made["date"].count("-") == 2


def test_an_engine_that_never_answers_stops_it(tmp_path, command, capsys):
    with pytest.raises(SystemExit):
        command(StubEngine(str, error="no route"))
    assert "--paraphraser stub" in capsys.readouterr().err
    assert not (tmp_path / "out/paraphrases.jsonl").exists()
