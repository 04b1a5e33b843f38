"""Evaluation while a run trains: scores, best weights, the end at a collapse."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from tiny import make_model, make_rows
from transformers import AutoModelForCausalLM
from watched_run import OPTIONS, lines, make_scorer, run, same_weights

from raft_fast.distillation import Callback, TrainingState
from raft_fast.engines.hf import HFEngine
from raft_fast.evaluation.during_training import (
    EvaluateEvery,
    KeepBest,
    StopOnCollapse,
    collapse_of,
    nll,
)
from raft_fast.report.cards import finish
from raft_fast.run.errors import UserError
from raft_fast.run.options import WatchOptions
from raft_fast.run.progress import Reporter


def test_scores_are_nats_a_token_and_drift_begins_at_zero(chat):
    student, scorer = make_model(0).train(), make_scorer(chat)
    scores = scorer(student)
    assert student.training
    assert scores["eval_general_drift"] == 0.0
    engine, rows = HFEngine(make_model(0), chat, "tiny"), make_rows(6)
    sums = [value for _, value in engine.nll([row.prompt for row in rows], [row.gold for row in rows])]
    expected = sum(total for total, _ in sums) / sum(tokens for _, tokens in sums)
    assert scores["eval_domain_nll"] == pytest.approx(expected, rel=1e-5)
    assert scorer(make_model(1))["eval_general_drift"] != 0
    assert nll(student, chat, []) is None


class Told(Callback):
    """What was heard: (moment, step)."""

    def __init__(self):
        self.heard = []

    def __getattribute__(self, name):
        if name.startswith("on_"):
            return lambda state, *more: self.heard.append((name[3:], state.step))
        return super().__getattribute__(name)


def test_callbacks_hear_every_moment_in_order(folder, chat):
    told = Told()
    run(folder, chat, [told, EvaluateEvery(4, make_scorer(chat))])
    assert told.heard == [
        ("begin", 0), ("evaluate", 0), ("step", 1), ("step", 2), ("save", 2), ("step", 3), ("step", 4),
        ("evaluate", 4), ("save", 4), ("step", 5), ("step", 6), ("evaluate", 6), ("save", 6), ("end", 6)]
    found = lines(folder / "evaluations.jsonl")
    assert [line["step"] for line in found] == [0, 4, 6]
    run(folder, chat, [EvaluateEvery(4, make_scorer(chat))])  # finished: nothing is added
    assert lines(folder / "evaluations.jsonl") == found


class Scripted:
    """Scores as a test writes them: (domain, drift) each, or the domain's alone."""

    def __init__(self, *scores):
        self.scores = iter(scores)

    def __call__(self, student):
        found = next(self.scores)
        domain, drift = found if isinstance(found, tuple) else (found, 0)
        return {"eval_domain_nll": domain, "eval_general_drift": drift}


class Remember(Callback):
    """The weights after every step."""

    def __init__(self):
        self.weights = {}

    def on_step(self, state):
        self.weights[state.step] = {k: v.clone() for k, v in state.student.state_dict().items()}


def same(student, weights):
    return same_weights(student.state_dict(), weights)


class Killed(Callback):
    """A kill -9 after a step or in an evaluation: nothing is saved."""

    def __init__(self, step=None):
        self.step = step

    def on_step(self, state):
        if state.step == self.step:
            raise KeyboardInterrupt

    def on_evaluate(self, state, scores):
        if self.step is None:
            raise KeyboardInterrupt


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def best(folder):
    return sorted(path.name for path in (folder / "best").iterdir())


def test_an_evaluation_is_told_again_where_nobody_heard_of_it(tmp_path):
    """Killed while the best weights were saved: only what all have heard has a line."""
    told, evaluate = Told(), EvaluateEvery(2, Scripted(1.0, 1.0))
    with pytest.raises(KeyboardInterrupt):
        evaluate.on_begin(TrainingState(tmp_path, None, None, 4, listeners=Killed()))
    evaluate.on_begin(TrainingState(tmp_path, None, None, 4, listeners=told))
    assert told.heard == [("evaluate", 0)]
    assert [line["step"] for line in lines(tmp_path / "evaluations.jsonl")] == [0]


def test_training_ends_with_the_best_weights(folder, chat):
    seen, scripted = Remember(), Scripted((5.0, 0.0), (3.0, 0.1), (2.0, 0.1), (float("nan"), 0.1))
    (folder / "best/.partial-step-000003/model").mkdir(parents=True)  # left by a kill, and taken away
    student = run(folder, chat, [seen, KeepBest(1.0), EvaluateEvery(2, scripted)])
    assert best(folder) == ["step-000004"]
    kept = AutoModelForCausalLM.from_pretrained(folder / "best/step-000004/model")  # as --model would
    again = run(folder, chat, [KeepBest(1.0)])  # killed before the model was saved
    assert all(same(each, seen.weights[4]) for each in (student, kept, again))
    assert not same(student, seen.weights[6])


@pytest.mark.parametrize("last", [(2.0, 1.5), (2.0, float("nan"))])
def test_best_weights_are_never_those_of_a_collapse(folder, chat, last):
    """A collapse may have the lowest likelihood of all, and its evaluation is heard here first."""
    seen, scripted = Remember(), EvaluateEvery(2, Scripted((5.0, 0.0), (3.0, 0.1), last))
    student = run(folder, chat, [seen, KeepBest(1.0), StopOnCollapse(1.0), scripted])
    assert (best(folder), max(seen.weights)) == (["step-000002"], 4)
    assert same(student, seen.weights[2])


def test_best_weights_are_never_those_of_steps_that_were_made_again(folder, chat):
    """The step was evaluated, then the run was killed before its checkpoint; made again, it is worse."""
    with pytest.raises(KeyboardInterrupt):
        run(folder, chat, [KeepBest(1.0), EvaluateEvery(1, Scripted(5, 3, 2, 0.1)), Killed(3)])
    assert best(folder) == ["step-000002", "step-000003"]
    seen = Remember()
    again = run(folder, chat, [seen, KeepBest(1.0), EvaluateEvery(1, Scripted(*[2.5] * 4))])
    assert best(folder) == ["step-000002"]
    assert not any(same(again, weights) for weights in seen.weights.values())


def test_the_best_before_an_older_checkpoint_is_there_when_the_newest_is_damaged(folder, chat, capsys):
    four = replace(OPTIONS, max_steps=4)
    run(folder, chat, [KeepBest(1.0), EvaluateEvery(1, Scripted(5, 1, 2, 0.5, 3))], four)
    assert best(folder) == ["step-000001", "step-000003"]
    (folder / "checkpoints/step-000004/state.json").write_text("{}")
    run(folder, chat, [KeepBest(1.0), EvaluateEvery(1, Scripted(3, 3))], four)
    assert "step-000004 is damaged" in capsys.readouterr().err
    assert best(folder) == ["step-000001"]


def test_damaged_best_weights_leave_the_last_ones(folder, chat):
    seen = Remember()
    run(folder, chat, [seen, KeepBest(1.0), EvaluateEvery(4, Scripted(5, 3, 4))])
    file = folder / "best/step-000004/model/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match="step-000004 is damaged"):
        assert same(run(folder, chat, [KeepBest(1.0)]), seen.weights[6])


@pytest.mark.parametrize(("scores", "said"), [((3.0, 1.5), "eval_general_drift 1.5 is above"),
                                              ((float("nan"), 0.1), "eval_domain_nll is not finite")])
def test_collapse_ends_training_for_good(folder, chat, scores, said):
    run(folder, chat, [StopOnCollapse(1.0), EvaluateEvery(3, Scripted((3.0, 0.0), scores))])
    told = Told()
    run(folder, chat, [told])  # the same command again trains no further
    assert told.heard == [("begin", 3), ("end", 3)]
    assert said in collapse_of(folder)
    assert [line["step"] for line in lines(folder / "evaluations.jsonl")] == [0, 3]


def test_what_is_no_collapse(folder, chat):
    """An end that another callback chose; and a run that came to its end after all, because the checkpoint
    that knew of the collapse was damaged, and its steps were done again."""
    class Patience(Callback):
        def on_evaluate(self, state, scores):
            state.finished = "no better for two evaluations" if state.step == 2 else None

    folder.mkdir()
    (folder / "collapse.json").write_text('{"step": 3, "reason": "collapse at step 3"}')
    run(folder, chat, [Patience(), StopOnCollapse(9.0), EvaluateEvery(1, make_scorer(chat))])
    assert [line["step"] for line in lines(folder / "evaluations.jsonl")] == [0, 1, 2]
    assert collapse_of(folder) is None


def test_a_collapsed_run_says_so_at_its_end_and_is_not_uploaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("raft_fast.run.fetch.push", lambda *_: pytest.fail("uploaded"))
    monkeypatch.setattr("raft_fast.report.results.print_table", lambda _: None)
    (tmp_path / "model").mkdir()
    (tmp_path / "evaluation.json").write_text("{}")
    (tmp_path / "collapse.json").write_text('{"step": 3, "reason": "collapse at step 3: eval_general_drift"}')
    watch = WatchOptions(push_to_hub=True, hub_model_id="me/model")
    with pytest.raises(UserError, match=r"--hub_model_id me/model: .*collapse at step 3.*hf upload me/model"):
        finish(tmp_path, SimpleNamespace(watch=watch), Reporter())
    assert "warning: training ended early: collapse at step 3" in capsys.readouterr().err
    for page in ("model/README.md", "report.html"):
        assert "Training ended early: collapse at step 3" in (tmp_path / page).read_text().replace("\\", "")
