"""examples/jury.py: judges vote on the answers of both models, the majority decides."""

import json
import sys
from pathlib import Path

import pytest
from refinement.refinement_stubs import StubEngine as StubJudge

from raft_fast.engines import Reply
from raft_fast.engines.asking import Part
from raft_fast.engines.journal import Journal
from raft_fast.run.errors import UserError

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import jury


@pytest.mark.parametrize(("scores", "said"), [
    ((1.0, 0.9, 0.1), True), ((1.0, 0.2, 0.1), False), ((1.0, 0.1), False),  # a tie is no majority
    ((1.0, None, 0.9), True), ((1.0, None, None), None), ((0.5,), False), ((0.51,), True)])
def test_the_majority_of_the_votes_there_are(scores, said):
    assert jury.correct(list(scores), len(scores)) is said


def held(folder, *judges):
    lines = [{"suite": "domain", "model": model, "row_id": f"r{row}", "error": None, "gold": "It is 7.",
              "prompt": [{"role": "user", "content": f"What is {row}?"}],
              "answer": "" if row == 0 else "It is 7." if model == "trained" and row % 2 else "Who knows?"}
             for model in ("base", "trained") for row in range(12)]
    (folder / "generations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Journal(folder / "jury") as journal:
        return jury.held(folder, [Part("judge", one, journal) for one in judges])


def test_the_share_of_right_answers_is_that_of_the_majority(tmp_path):
    def knows(text, seed):
        return 8 / 9 if "It is 7." in text.split("Answer to check: ")[1].split("\n\nDoes")[0] else 1 / 9

    judges = [StubJudge("fair", knows), StubJudge("kind", lambda text, seed: 1.0), StubJudge("strict", knows)]
    found = held(tmp_path, *judges)
    assert [found[name]["mean"] for name in ("base", "trained", "change")] == [0, 0.5, 0.5]
    assert found["change"]["low"] > 0
    assert len((tmp_path / "jury.jsonl").read_text().splitlines()) == 24
    assert held(tmp_path, *judges) == found
    assert len(judges[0].asked) == 11 + 6  # equal answers are asked about once, ever
    with pytest.raises(UserError, match=r"judge down: none of \d+ replies can be used.*no route"):
        held(tmp_path, StubJudge("down", lambda text, seed: Reply("", error="no route")))
