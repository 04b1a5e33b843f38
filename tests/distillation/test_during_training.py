"""Evaluation while a run trains: scores, best weights."""


import pytest
from tiny import make_model, make_rows
from transformers import AutoModelForCausalLM
from watched_run import lines, make_scorer, run, same_weights

from raft_fast.distillation import Callback, TrainingState
from raft_fast.engines.hf import HFEngine
from raft_fast.evaluation.during_training import EvaluateEvery, nll


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
        evaluate.on_begin(TrainingState(tmp_path, None, None, 4, callbacks=[Killed()]))
    evaluate.on_begin(TrainingState(tmp_path, None, None, 4, callbacks=[told]))
    assert told.heard == [("evaluate", 0)]
    assert [line["step"] for line in lines(tmp_path / "evaluations.jsonl")] == [0]


def every(steps, *scores):
    """Evaluations with these scores; the best weights are kept."""
    return EvaluateEvery(steps, Scripted(*scores), True)


def test_training_ends_with_the_best_weights(folder, chat):
    seen = Remember()
    (folder / "best/.partial-step-000003/model").mkdir(parents=True)  # left by a kill, and taken away
    student = run(folder, chat, [seen, every(2, (5.0, 0.0), (3.0, 0.1), (2.0, 0.1), (2.5, 0.1))])
    assert best(folder) == ["step-000004"]
    kept = AutoModelForCausalLM.from_pretrained(folder / "best/step-000004/model")  # as --model would
    again = run(folder, chat, [every(2)])  # killed before the model was saved
    assert all(same(each, seen.weights[4]) for each in (student, kept, again))
    assert not same(student, seen.weights[6])


def test_the_best_weights_outlive_a_kill(folder, chat):
    """Step 3 was evaluated, then the run was killed before its checkpoint; step 4 is no better."""
    seen = Remember()
    with pytest.raises(KeyboardInterrupt):
        run(folder, chat, [seen, every(1, 5, 4, 3, 1), Killed(3)])
    again = run(folder, chat, [every(1, 1, 2, 2, 2)])
    assert best(folder) == ["step-000003"]
    assert same(again, seen.weights[3])


def test_damaged_best_weights_leave_the_last_ones(folder, chat):
    seen = Remember()
    run(folder, chat, [seen, every(4, 5, 3, 4)])
    file = folder / "best/step-000004/model/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match="step-000004 is damaged"):
        assert same(run(folder, chat, [every(4)]), seen.weights[6])
