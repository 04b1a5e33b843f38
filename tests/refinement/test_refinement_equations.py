"""Eqs. 1-4 against numbers worked out by hand, the check `retrieval`, and likelihoods."""

import json

import numpy as np
import pytest
from refinement_stubs import StubEncoder, StubEngine, rewritten, row, run

from raft_fast.data.dataset import Row
from raft_fast.data.texts import Message
from raft_fast.engines import Reply
from raft_fast.engines.asking import load_prompts
from raft_fast.engines.hf import HFEngine
from raft_fast.engines.journal import Journal
from raft_fast.models.load import unit
from raft_fast.recipes.raft import choose
from raft_fast.refinement import Roles, index_golds
from raft_fast.refinement.bench import Workbench
from raft_fast.refinement.candidates import JUDGE, Candidate
from raft_fast.refinement.parts import cosines, judge, rewrite
from raft_fast.run.errors import UserError
from raft_fast.run.options import RefineOptions
from raft_fast.run.progress import Reporter


def test_eq1_the_rewriter_sees_question_and_gold_answer_in_the_rows_context(tmp_path):
    turns = [Message(role="system", content="Be brief."), Message(role="user", content="Hi"),
             Message(role="assistant", content="Hello"),
             Message(role="user", content="How tall {x}?")]
    engine = StubEngine("stub", lambda text, seed: f"  rewritten {seed}\n")
    with Journal(tmp_path) as journal:
        bench = Workbench.of(RefineOptions(), Roles(engine), StubEncoder(), None, journal, 5)
        one, = rewrite([Row("1", turns, "3 m", "3 m")], bench)
    asked, = engine.asked
    assert asked[:3] == turns[:3]
    assert asked[3]["role"] == "user"
    assert "How tall {x}?" in asked[3]["content"]
    assert "3 m" in asked[3]["content"]
    assert one.text == "rewritten 5"


@pytest.mark.parametrize(("similarity", "passes"), [
    (0.7999, False), (0.8, True), (0.95, True), (-0.2, False)])
def test_eq3_keeps_the_rewrite_from_tau_on(similarity, passes):
    found, = rewritten([row("1")], [Reply("rewrite")], StubEncoder({"rewrite": similarity}), tau=0.8)
    assert found.passed is passes
    assert choose(found, []).picks[0].text == ("rewrite" if passes else "gold answer")
    assert found.scores["similarity"] == similarity


def test_eq2_cosines():
    left = np.float32([[1, 0], [0.6, 0.8], [0, 0], [1, 0]])
    right = np.float32([[0, 1], [0.8, 0.6], [1, 0], [1, 0]])
    assert cosines(left, right) == [0.0, 0.96, None, 1.0]
    assert cosines(left[:1] * np.float32("nan"), right[:1]) == [None]


def judged(folder, number, scores, quorum=1):
    """Round `number`, judged by judges that give these scores (None: they fail); without any it is empty."""
    one = Candidate(row("1"), "fused", number, Reply(f"fusion {number}"), {},
                    {} if scores else {"empty": "empty reply"})
    judges = [StubEngine(f"judge {n}", lambda text, seed, score=score: Reply("", error="no score")
                         if score is None else score) for n, score in enumerate(scores)]
    roles = Roles(StubEngine("writer", str), StubEngine("fuser", str), judges)
    with Journal(folder / str(number)) as journal:
        judge([one], Workbench.of(RefineOptions(quorum=quorum), roles, StubEncoder(), None, journal, 0))
    return one


@pytest.mark.parametrize(("scores", "quorum", "mean"), [
    ((0.2, 0.6, 1.0), 1, 0.6), ((0.2, None, 1.0), 1, 0.6),  # with 0 for None: 0.4
    ((None, None), 1, None), ((0.9, None, 0.7), 2, 0.8), ((0.9, None, None), 2, None)])
def test_eq4_the_score_of_a_round_is_the_mean_of_the_judges_that_gave_one(tmp_path, scores, quorum, mean):
    assert judged(tmp_path, 1, scores, quorum).scores[JUDGE] == (mean and pytest.approx(mean))


@pytest.mark.parametrize(("rounds", "quorum", "least", "chosen", "whys"), [
    ([(0.3, 0.5), (0.7, 0.6), (0.9, 0.3)], 1, 0.0, "fusion 2", ["0.650 from 2 of 2 judges"]),
    ([(0.7, 0.6), (0.9, 0.4)], 1, 0.0, "fusion 1", []),  # 0.65 both, one a rounding below
    ([(0.0,)], 1, 0.0, "fusion 1", []),  # 0 is a score
    ([(0.9, None, None), (0.1, 0.1, None)], 2, 0.0, "fusion 2", []),  # one 0.9 does not count
    ([(0.9, None, None)], 2, 0.0, "rewrite", ["only 1 of 3 judges gave a score"]),
    ([(None,), ()], 1, 0.0, "rewrite", ["round 1: judge 0: no score", "round 2: empty reply"]),
    ([(0.1, 0.3), (0.0, 0.0)], 1, 0.2, "fusion 1", []),
    ([(0.1, 0.3), (0.0, 0.0)], 1, 0.25, "rewrite", ["mean score reaches 0.25; the best is 0.200"]),
])
def test_eq4_the_best_round_wins_the_earlier_of_equals_and_without_a_score_the_filtered_answer(
        tmp_path, rounds, quorum, least, chosen, whys):
    rewritten = Candidate(row("1"), "rewrite", 1, Reply("rewrite"), {"similarity": 0.9}, {})
    fusions = [judged(tmp_path, number, scores, quorum) for number, scores in enumerate(rounds, 1)]
    decision = choose(rewritten, fusions, least)
    assert [(one.origin, one.text) for one in decision.picks] == [
        ("rewrite" if chosen == "rewrite" else "fused", chosen)]
    assert [why for why in whys if why not in decision.why] == []


@pytest.mark.parametrize(("file", "text", "says"), [
    ("judge.txt", "{question} {answer}", r"judge.txt: lacks the placeholder \{gold\}"),
    ("rewrite.txt", "{question} {answer} {tone}", r"rewrite.txt: has the placeholder \{tone\}"),
    ("rewrite.txt", "{question} {answer} {", r"rewrite.txt: .*written twice"),
    ("juge.txt", "x", "juge.txt is no prompt"), ("judge.md", "x", "holds no prompt"),
])
def test_a_prompt_that_cannot_be_filled_is_named_with_its_placeholder(tmp_path, file, text, says):
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=says):
        load_prompts(str(tmp_path))


class TableEncoder:
    """Vectors by a table."""

    identity, device = "table", "cpu"

    def __init__(self, table):
        self.table, self.asked = table, []

    def embed(self, texts):
        self.asked += texts
        return unit(np.array([self.table[text] for text in texts], np.float64))


ENCODER = TableEncoder({
    "fences are low": [1, 0, 0], "walls are high": [0, 1, 0], "fences stay low": [0.999, 0.01, 0],
    "low fences it is": [0.9, 0.3, 0], "high walls it is": [0.3, 0.9, 0], "nothing": [0, 0, 0]})
GOLDS = [row("fence", gold="fences are low"), row("wall", gold="walls are high"),
         row("again", gold="fences stay low")]


@pytest.fixture
def golds(tmp_path):
    return index_golds(GOLDS, RefineOptions(), ENCODER, tmp_path, Reporter())


def test_a_rewrite_must_be_nearest_to_its_own_gold_answer_if_it_has_a_vector(golds):
    def retrieval(rewrite):
        return [one.objections["retrieval"] for one in rewritten(GOLDS, [Reply(rewrite)] * 3, ENCODER, golds)]

    refused = "nearer to another row's gold answer"
    assert retrieval("high walls it is") == [refused, None, refused]
    assert retrieval("low fences it is") == [None, refused, None]  # fences that say the same are no rivals
    one, = rewritten(GOLDS[:1], [Reply("nothing")], ENCODER, golds)
    assert one.scores["similarity"] is None
    assert one.objections["similarity"] == "no similarity to the gold answer"
    assert one.objections["retrieval"] is None


ROWS = [row("near", "near?", "gold near"), row("far", "far?", "gold far")]
NEAR_AND_FAR = StubEncoder({"gold far": 0.5})
NATS = {"gold near": (6.0, 2), "gold far": (9.0, 3), "rewritten": (1.0, 3), "fusion": (5.0, 4)}


def local(**nats):
    """A stub that knows likelihoods by a table, and remembers what it was asked for."""
    engine = StubEngine("writer", lambda text, seed: "rewritten")
    engine.read = []

    def nll(conversations, completions):
        engine.read += [(turns[-1]["content"], text) for turns, text in
                        zip(conversations, completions, strict=True)]
        for index in reversed(range(len(completions))):
            yield index, (NATS | nats)[completions[index]]

    engine.nll = nll
    return engine


def read(folder, rewriter, **options):
    roles = Roles(rewriter, StubEngine("fuser", lambda text, seed: "fusion"),
                  [StubEngine("judge", lambda text, seed: 0.9)])
    summary = run(folder, ROWS, roles, NEAR_AND_FAR, skip_checks="", **options)
    lines = (folder / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["nll"] for line in lines], summary


def test_every_answer_of_a_row_is_read_after_its_question_and_counts_if_it_is_a_number(tmp_path):
    rewriter = local()
    found, summary = read(tmp_path, rewriter)
    assert found == [{"gold": 3.0, "rewrite": 0.3333, "fused": 1.25},
                     {"gold": 3.0, "rewrite": 0.3333, "fused": None}]
    assert sorted(rewriter.read) == [("far?", "gold far"), ("far?", "rewritten"), ("near?", "fusion"),
                                     ("near?", "gold near"), ("near?", "rewritten")]
    # near is trained on its fusion, far keeps gold
    assert summary["supervision_gap"] == {"rows": 2, "gold": 3.0, "training": 2.125, "gap": 0.875}
    again = local()
    assert read(tmp_path, again) == (found, summary)
    assert again.read == []
    found, summary = read(tmp_path / "nan", local(fusion=(float("nan"), 4)))
    assert found[0] == {"gold": 3.0, "rewrite": 0.3333, "fused": None}
    assert summary["supervision_gap"]["rows"] == 1


@pytest.mark.parametrize(("rewriter", "options"), [
    (StubEngine("server", lambda text, seed: "rewritten"), {}), (local(), {"supervision_gap": False})])
def test_a_server_shows_no_likelihoods_and_they_can_be_switched_off(tmp_path, rewriter, options):
    found, summary = read(tmp_path, rewriter, **options)
    assert (found, summary["supervision_gap"]) == ([None, None], None)
    assert not getattr(rewriter, "read", [])


def test_a_likelihood_does_not_depend_on_what_else_is_read(model, chat):
    """Bit for bit on a CPU, or a run that was interrupted would not end in the same files."""
    engine = HFEngine(model, chat, "tiny")
    asked = [[Message(role="user", content="x" * n)] for n in (3, 40, 11, 5)]
    answers = ["a long answer to a question" * 3, "b", "cc", "dddd"]
    for index, value in engine.nll(asked, answers):
        assert dict(engine.nll([asked[index]], [answers[index]]))[0] == value
