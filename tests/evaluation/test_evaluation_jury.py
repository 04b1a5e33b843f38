"""Judges vote, the majority decides, what is missing is missing; with stubs and with a real server."""

import json
import sys

import pytest
from engines.faulty_server import serving
from evaluation.evaluation_stubs import OverlapEncoder, StubEngine, make_rows
from refinement.refinement_stubs import StubEngine as StubJudge

from raft_fast.engines import Reply
from raft_fast.evaluation import evaluate
from raft_fast.evaluation.jury import Ballot, open_jury
from raft_fast.refinement.candidates import Verdict
from raft_fast.run.errors import UserError
from raft_fast.run.options import CompareOptions, EvaluateOptions
from raft_fast.run.progress import Reporter


@pytest.mark.parametrize(("scores", "quorum", "said"), [
    ((1.0, 0.9, 0.1), 2, True), ((1.0, 0.2, 0.1), 2, False), ((1.0, 0.1), 2, False),  # a tie is no majority
    ((1.0, None, 0.9), 2, True), ((1.0, None, None), 2, None), ((None, None, None), 1, None),
    ((0.5,), 1, False), ((0.51,), 1, True)])
def test_the_majority_of_the_votes_there_are(scores, quorum, said):
    assert Ballot([Verdict("j", score, None) for score in scores], quorum).correct is said


def judge(name, knows):
    """Says yes (8 of 9) where `knows` the answer; its name is its identity."""
    return StubJudge(name, lambda text, seed: 8 / 9 if knows(text) else 1 / 9)


def checked(text):
    return text.split("Answer to check: ")[1].split("\n\nDoes the answer")[0]


def held(tmp_path, judges, **options):
    """evaluation.json of a model that knows every other answer, judged."""
    rows = make_rows(12)
    known = {row.prompt[-1]["content"]: row.gold for place, row in enumerate(rows) if place % 2}
    base = StubEngine(lambda asked: "It depends.", "base")
    trained = StubEngine(lambda asked: known.get(asked, ""), "trained")
    options = CompareOptions(**{"eval_judge": ",".join(judges)} | options)
    with open_jury(options, judges.__getitem__, tmp_path / "jury") as jury:
        return evaluate(base, trained, rows, EvaluateOptions(general_prompts=-1), OverlapEncoder(),
                        Reporter(), tmp_path, jury=jury)


def test_accuracy_agreement_and_ballots(tmp_path):
    judges = {"fair": judge("fair", lambda text: "weeks" in checked(text)),
              "kind": judge("kind", lambda text: True),
              "strict": judge("strict", lambda text: "weeks" in checked(text))}
    found = held(tmp_path, judges)
    about, metric = found["jury"], found["domain"]["metrics"]["jury"]
    assert [metric[name]["mean"] for name in ("base", "trained", "change")] == [0, 0.5, 0.5]
    assert metric["change"]["low"] > 0
    assert (about["judges"], about["missing_votes"]) == (["fair", "kind", "strict"], {})
    assert about["prompt"].startswith("jury-")
    # base: kind against two; trained: six that all know, six that say nothing and are not asked about
    assert about["unanimous"] == pytest.approx(6 / (12 + 6))
    ballots = [json.loads(line) for line in (tmp_path / "jury.jsonl").read_text().splitlines()]
    assert [one["correct"] for one in ballots] == [False] * 12 + [False, True] * 6
    keys = {vote["key"] for one in ballots for vote in one["votes"]}
    journal = (tmp_path / "jury/journal.jsonl").read_text().splitlines()
    assert keys <= {json.loads(line).get("key") for line in journal}
    assert json.loads((tmp_path / "evaluation.json").read_text())["jury"] == about
    assert held(tmp_path, judges)["jury"] == about  # asked once, ever
    assert len(judges["kind"].asked) == 18


def test_a_judge_that_fails_now_and_then_has_fewer_votes_and_the_quorum_decides(tmp_path):
    def moody(text, seed):
        return Reply("", error="garbage") if "case 3 " in text else 1.0

    judges = {"fair": judge("fair", lambda text: True), "moody": StubJudge("moody", moody)}
    found = held(tmp_path, judges)
    assert found["jury"]["missing_votes"] == {"moody": 2}
    assert found["jury"]["not_judged"] == {"base": 1, "trained": 1}
    assert found["domain"]["metrics"]["jury"]["base"]["n"] == 11
    (tmp_path / "jury.txt").write_text("{question} {gold} Answer to check: {answer}")
    lenient = held(tmp_path / "other", judges, eval_quorum=1, prompts=str(tmp_path))
    assert lenient["jury"]["not_judged"] == {"base": 0, "trained": 0}
    assert lenient["jury"]["prompt"] != found["jury"]["prompt"]
    assert judges["moody"].asked[-1][0]["content"].startswith("How long")  # in the user's own words


def test_a_judge_that_never_works_stops_it_but_loses_no_answer(tmp_path):
    judges = {"down": StubJudge("down", lambda text, seed: Reply("", error="no route"))}
    with pytest.raises(UserError, match=r"--eval_judge down: none of \d+ replies can be used.*no route"):
        held(tmp_path, judges)
    kept = json.loads((tmp_path / "evaluation.json").read_text())
    assert kept["domain"]["metrics"]["token_f1"]["trained"]["n"] == 12
    assert "jury" not in kept["domain"]["metrics"]


@pytest.mark.parametrize(("options", "said"), [
    ({"eval_judge": "a,a"}, "--eval_judge a,a: names a twice"), ({"eval_judge": "a,b"}, "are one model"),
    ({"eval_judge": "a", "prompts": "."}, "holds no prompt")])
def test_a_jury_that_cannot_sit_is_refused(tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said), \
            open_jury(CompareOptions(**options), lambda spec: judge("same", bool), tmp_path / "jury"):
        pass


def test_the_command_judges_by_a_server_and_reports(tmp_path, monkeypatch, capsys, model_folder):
    """python -m raft_fast.evaluate --eval_judge, from the command line to the report."""
    from raft_fast import evaluate as entry
    from raft_fast.models import load as models

    (tmp_path / "rows.jsonl").write_text("".join(
        f'{{"id": "r{i}", "question": "What is {i}?", "answer": "It is {i}."}}\n' for i in range(3)))
    monkeypatch.setattr(models, "load_encoder", lambda *_: OverlapEncoder())
    monkeypatch.chdir(tmp_path)
    with serving() as serve:
        server = serve(lambda request, before: "Let me see.\n**Score: 9**")
        monkeypatch.setattr(sys, "argv", [
            "evaluate", "--model", str(model_folder), "--base", str(model_folder), "--data", "rows.jsonl",
            "--output_dir", "out", "--general_prompts", "-1", "--eval_max_new_tokens", "4", "--eval_judge",
            f"first@{server.url}"])
        entry.main()
    for text in (capsys.readouterr().out, (tmp_path / "out/report.html").read_text()):
        assert "Correct by the jury" in text
        assert "Jury: first" in text
    assert "Let me see." in (tmp_path / "out/jury/journal.jsonl").read_text()
    found = json.loads((tmp_path / "out/evaluation.json").read_text())
    records = [json.loads(line) for line in (tmp_path / "out/generations.jsonl").read_text().splitlines()]
    said = [one["answer"].strip() != "" for one in records if one["model"] == "trained"]
    assert found["domain"]["metrics"]["jury"]["trained"]["mean"] == pytest.approx(sum(said) / 3)
