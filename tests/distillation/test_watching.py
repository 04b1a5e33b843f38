"""What listens to a run, on a tiny model: evaluation, best weights, collapse, samples."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import make_model, make_rows
from transformers import AutoModelForCausalLM
from watched_run import OPTIONS, lines, make_scorer, run

from raft_fast.distillation import Callback, TrainingState
from raft_fast.distillation.callbacks import OverProcesses
from raft_fast.distillation.watching import FirstBatch, LambdaAtBound, LogCompletions, RolloutAdvice
from raft_fast.engines.hf import HFEngine
from raft_fast.evaluation.during_training import (
    EvaluateEvery,
    KeepBest,
    StopOnCollapse,
    collapse_of,
    nll,
    watchers,
)
from raft_fast.report.finish import finish
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
    def __init__(self):
        self.heard = []

    def on_begin(self, state):
        self.heard.append(("begin", state.step))

    def on_step(self, state):
        self.heard.append(("step", state.step))

    def on_evaluate(self, state, scores):
        self.heard.append(("evaluate", state.step))

    def on_save(self, state, checkpoint):
        assert (checkpoint / "manifest.json").is_file()
        self.heard.append(("save", state.step))

    def on_end(self, state):
        self.heard.append(("end", state.step))


def test_callbacks_hear_every_moment_in_order(tmp_path, chat):
    told = Told()
    run(tmp_path / "run", chat, [told, EvaluateEvery(4, make_scorer(chat))])
    assert told.heard == [
        ("begin", 0), ("evaluate", 0), ("step", 1), ("step", 2), ("save", 2), ("step", 3), ("step", 4),
        ("evaluate", 4), ("save", 4), ("step", 5), ("step", 6), ("evaluate", 6), ("save", 6), ("end", 6)]
    found = lines(tmp_path / "run/evaluations.jsonl")
    assert [line["step"] for line in found] == [0, 4, 6]
    run(tmp_path / "run", chat, [EvaluateEvery(4, make_scorer(chat))])  # finished: nothing is added
    assert lines(tmp_path / "run/evaluations.jsonl") == found


class Scripted:
    """Scores as a test writes them."""

    def __init__(self, *scores):
        self.scores = iter(scores)

    def __call__(self, student):
        domain, drift = next(self.scores)
        return {"eval_domain_nll": domain, "eval_general_drift": drift}


class Remember(Callback):
    def __init__(self):
        self.weights = {}

    def on_step(self, state):
        self.weights[state.step] = {k: v.clone() for k, v in state.student.state_dict().items()}


def test_an_evaluation_is_told_again_where_nobody_heard_of_it(tmp_path):
    """Killed while the best weights were saved: only what all have heard has a line."""
    class Killed(Callback):
        def on_evaluate(self, state, scores):
            raise KeyboardInterrupt

    told, evaluate = Told(), EvaluateEvery(2, lambda _: {"eval_domain_nll": 1.0, "eval_general_drift": 0.0})
    with pytest.raises(KeyboardInterrupt):
        evaluate.on_begin(TrainingState(tmp_path, None, None, 4, listeners=Killed()))
    evaluate.on_begin(TrainingState(tmp_path, None, None, 4, listeners=told))
    assert told.heard == [("evaluate", 0)]
    assert [line["step"] for line in lines(tmp_path / "evaluations.jsonl")] == [0]


def test_training_ends_with_the_best_weights(tmp_path, chat):
    seen = Remember()
    scripted = Scripted((5.0, 0.0), (3.0, 0.1), (2.0, 0.1), (float("nan"), 0.1))
    student = run(tmp_path / "run", chat, [seen, KeepBest(1.0), EvaluateEvery(2, scripted)])
    assert [path.name for path in (tmp_path / "run/best").iterdir()] == ["step-000004"]
    assert all(torch.equal(value, seen.weights[4][name]) for name, value in student.state_dict().items())
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "run/best/step-000004/model")  # as --model would
    assert all(torch.equal(value, seen.weights[4][name]) for name, value in kept.state_dict().items())
    assert any(not torch.equal(value, seen.weights[6][name]) for name, value in student.state_dict().items())
    again = run(tmp_path / "run", chat, [KeepBest(1.0)])  # killed before the model was saved
    assert all(torch.equal(value, seen.weights[4][name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize("last", [(2.0, 1.5), (2.0, float("inf")), (2.0, float("nan"))])
def test_best_weights_are_never_those_of_a_collapse(tmp_path, chat, last):
    """A collapse may have the lowest likelihood of all, and its evaluation is heard here first."""
    seen = Remember()
    scripted = Scripted((5.0, 0.0), (3.0, 0.1), last)
    student = run(tmp_path / "run", chat, [seen, KeepBest(1.0), StopOnCollapse(1.0),
                                           EvaluateEvery(2, scripted)])
    assert [path.name for path in (tmp_path / "run/best").iterdir()] == ["step-000002"]
    assert all(torch.equal(value, seen.weights[2][name]) for name, value in student.state_dict().items())
    assert max(seen.weights) == 4


class Killed(Callback):
    """A kill -9 after a step: it has been evaluated, and nothing is saved."""

    def __init__(self, step):
        self.step = step

    def on_step(self, state):
        if state.step == self.step:
            raise KeyboardInterrupt


def test_best_weights_are_never_those_of_steps_that_were_made_again(tmp_path, chat):
    """The step was evaluated, then the run was killed before its checkpoint; made again, it is worse."""
    first = Scripted((5, 0), (3, 0), (2, 0), (0.1, 0))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", chat, [KeepBest(1.0), EvaluateEvery(1, first), Killed(3)])
    assert [path.name for path in sorted((tmp_path / "run/best").iterdir())] == ["step-000002", "step-000003"]
    seen = Remember()
    again = run(tmp_path / "run", chat, [seen, KeepBest(1.0), EvaluateEvery(1, Scripted(*[(2.5, 0)] * 4))])
    assert [path.name for path in (tmp_path / "run/best").iterdir()] == ["step-000002"]
    assert not any(torch.equal(value, weights[name]) for weights in seen.weights.values()
                   for name, value in again.state_dict().items() if "embed" in name)


def test_what_a_kill_has_left_of_best_weights_is_taken_away(tmp_path, chat):
    (tmp_path / "run/best/.partial-step-000003/model").mkdir(parents=True)
    run(tmp_path / "run", chat, [KeepBest(1.0), EvaluateEvery(6, Scripted((5, 0), (3, 0)))])
    assert not [*(tmp_path / "run/best").glob(".partial-*")]


def test_the_best_before_an_older_checkpoint_is_there_when_the_newest_is_damaged(tmp_path, chat, capsys):
    scores = [(5, 0), (1, 0), (2, 0), (0.5, 0), (3, 0)]
    run(tmp_path / "run", chat, [KeepBest(1.0), EvaluateEvery(1, Scripted(*scores))],
        replace(OPTIONS, max_steps=4))
    assert [path.name for path in sorted((tmp_path / "run/best").iterdir())] == ["step-000001", "step-000003"]
    (tmp_path / "run/checkpoints/step-000004/state.json").write_text("{}")
    run(tmp_path / "run", chat, [KeepBest(1.0), EvaluateEvery(1, Scripted(*[(3, 0)] * 2))],
        replace(OPTIONS, max_steps=4))
    assert "step-000004 is damaged" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run/best").iterdir()] == ["step-000001"]


def test_damaged_best_weights_leave_the_last_ones(tmp_path, chat):
    seen = Remember()
    run(tmp_path / "run", chat, [seen, KeepBest(1.0), EvaluateEvery(4, Scripted((5, 0), (3, 0), (4, 0)))])
    file = tmp_path / "run/best/step-000004/model/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match="step-000004 is damaged"):
        student = run(tmp_path / "run", chat, [KeepBest(1.0)])
    assert all(torch.equal(value, seen.weights[6][name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize(("scores", "said"), [((3.0, 1.5), "eval_general_drift 1.5 is above"),
                                              ((float("nan"), 0.1), "eval_domain_nll is not finite")])
def test_collapse_ends_training_for_good(tmp_path, chat, scores, said):
    ended = []

    class End(Callback):
        def on_end(self, state):
            ended.append(state.finished)

    callbacks = [StopOnCollapse(1.0), EvaluateEvery(3, Scripted((3.0, 0.0), scores)), End()]
    run(tmp_path / "run", chat, callbacks)
    run(tmp_path / "run", chat, [End()])  # the same command again trains no further
    assert len(lines(tmp_path / "run/metrics.jsonl")) == 3
    assert len(ended) == 2
    assert all(said in each for each in ended)
    assert lines(tmp_path / "run/evaluations.jsonl")[-1]["step"] == 3
    assert said in collapse_of(tmp_path / "run")


def test_a_collapse_is_forgotten_where_a_run_came_to_its_end_after_all(tmp_path, chat):
    """The checkpoint that knew of it was damaged, and the steps were done again."""
    stale = tmp_path / "run/collapse.json"
    stale.parent.mkdir()
    stale.write_text('{"step": 3, "reason": "collapse at step 3"}')
    run(tmp_path / "run", chat, [StopOnCollapse(1.0)])
    assert collapse_of(tmp_path / "run") is None


class Patience(Callback):
    """A user's own end."""

    def on_evaluate(self, state, scores):
        state.finished = "no better for two evaluations" if state.step == 2 else None


def test_an_end_that_somebody_else_chose_is_no_collapse(tmp_path, chat):
    callbacks = [Patience(), StopOnCollapse(9.0), EvaluateEvery(1, make_scorer(chat))]
    for _ in range(2):  # the second one goes on from a checkpoint that says it is finished
        run(tmp_path / "run", chat, callbacks)
        assert [line["step"] for line in lines(tmp_path / "run/evaluations.jsonl")] == [0, 1, 2]
        assert collapse_of(tmp_path / "run") is None


class Everywhere(Callback):
    everywhere = True

    def __init__(self):
        self.heard = []

    def on_begin(self, state):
        self.heard.append("begin")

    def on_step(self, state):
        self.heard.append(state.step)

    def on_evaluate(self, state, scores):
        self.heard.append(scores["eval_domain_nll"])


def test_every_process_hears_of_evaluations(tmp_path, chat):
    """After the moment of the first process that they were made in, its beginning included."""
    each = Everywhere()
    run(tmp_path / "run", chat, [each, EvaluateEvery(2, make_scorer(chat))], replace(OPTIONS, max_steps=2))
    zero, two = (line["eval_domain_nll"] for line in lines(tmp_path / "run/evaluations.jsonl"))
    assert each.heard == ["begin", zero, 1, 2, two]


def test_another_process_hears_what_the_first_says(tmp_path):
    """There `Processes.first` gives what was decided elsewhere, and does no work."""
    each, state = Everywhere(), TrainingState(tmp_path, None, None, 4, step=3)
    told = SimpleNamespace(first=lambda work: (False, "enough", [{"eval_domain_nll": 0.5}]))
    OverProcesses([each], told).on_step(state)
    assert each.heard == [3, 0.5]
    assert state.finished == "enough"


def test_a_collapsed_run_says_so_at_its_end_and_is_not_uploaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("raft_fast.run.fetch.push", lambda *_: pytest.fail("uploaded"))
    monkeypatch.setattr("raft_fast.report.results.print_table", lambda _: None)
    (tmp_path / "model").mkdir()
    (tmp_path / "evaluation.json").write_text("{}")
    why = "collapse at step 3: eval_general_drift 1.5 is above --collapse_threshold 1"
    (tmp_path / "collapse.json").write_text(json.dumps({"step": 3, "reason": why}))
    finish(tmp_path, SimpleNamespace(watch=WatchOptions()), Reporter())
    assert f"warning: training ended early: {why}" in capsys.readouterr().err
    for page in ("model/README.md", "report.html"):
        assert "Training ended early: collapse at step 3" in (tmp_path / page).read_text().replace("\\", "")
    watch = WatchOptions(push_to_hub=True, hub_model_id="me/model")
    with pytest.raises(UserError, match=r"--hub_model_id me/model: .*collapse at step 3.*hf upload me/model"):
        finish(tmp_path, SimpleNamespace(watch=watch), Reporter())


def test_completions_are_logged_and_not_twice(tmp_path, chat):
    heard = {}

    class Listen(Callback):
        def on_step(self, state):
            pairs = zip(state.rows, state.trajectories, strict=True)
            heard.update({(state.step, row.row_id): (row, ids) for row, ids in pairs})

    callbacks = [LogCompletions(3, chat), Listen()]
    run(tmp_path / "run", chat, callbacks)
    found = lines(tmp_path / "run/completions.jsonl")
    assert sorted({line["step"] for line in found}) == [1, 3, 6]
    for line in found:
        row, ids = heard[line["step"], line["row_id"]]
        assert line == {"step": line["step"], "row_id": row.row_id, "prompt": row.prompt,
                        "completion": chat.decode(ids), "answer": row.completion, "tokens": len(ids),
                        "ended": ids[-1] == chat.tokenizer.eos_token_id}
    (tmp_path / "run/completions.jsonl").open("a").write('{"step": 9, "torn')
    run(tmp_path / "run", chat, callbacks)
    assert lines(tmp_path / "run/completions.jsonl") == found


def test_the_first_batch_is_shown_as_the_losses_saw_it(tmp_path, chat):
    options = replace(OPTIONS, max_steps=2, num_loss_tokens_to_skip=1)
    run(tmp_path / "run", chat, [FirstBatch(chat)], options)
    text = (tmp_path / "run/first_batch.md").read_text()
    assert text.count("## row_id r") == 3
    blocks = re.findall(r"(masked|in the loss), (\d+) tokens:\n\n(`{3,})text\n(.*?)\n\3\n", text, re.DOTALL)
    shown, counts = [block[3] for block in blocks], [int(block[1]) for block in blocks]
    assert [block[0] for block in blocks] == ["masked", "in the loss"] * 9
    assert counts[0] == len(chat.tokenizer(shown[0], add_special_tokens=False).input_ids)
    assert shown[0].endswith("<turn>assistant\n")
    assert "<turn>user\nWhat is" in shown[0]
    assert shown[1].startswith("It is ")
    assert shown[1].endswith("<eos>")
    assert "reference knowledge: It is" in shown[4]  # the teacher sees the answer, and the student does not
    assert "reference knowledge" not in shown[2]
    assert shown[3] == shown[5]
    assert counts[3] <= OPTIONS.max_completion_length - 1  # the skipped token is masked
    assert f"masked [0, {counts[0]}), in the loss [{counts[0]}, {counts[0] + counts[1]})" in text
    assert '- after the answer: `"<eos>"`' in text
    assert text.count("Control tokens: `<turn>` ") == 9
    (tmp_path / "run/first_batch.md").unlink()
    run(tmp_path / "run", chat, [FirstBatch(chat)], replace(options, max_steps=3))
    assert not (tmp_path / "run/first_batch.md").exists()  # a run that goes on has no first batch


def test_a_mark_in_the_text_of_a_row_is_no_control_token(chat):
    view = chat.sft_view([{"role": "user", "content": "<eos> <turn>?"}], "<turn>user")
    assert "Control tokens: `<turn>` 3, `<eos>` 3.\n" in FirstBatch(chat)._shown(view)


def test_the_options_choose_who_listens(tmp_path, chat, monkeypatch):
    engine = HFEngine(make_model(0), chat, "tiny")
    config = {"steps_per_generation": 1, "rollout_engine": "transformers", "max_completion_length": 8,
              "lambda_max": 100.0}
    assert [type(each) for each in watchers(WatchOptions(), engine, [], tmp_path, Reporter(), config)] \
        == [FirstBatch, RolloutAdvice, LambdaAtBound]

    def no_wheel(name):
        raise UserError("cannot be fetched")

    monkeypatch.setattr("raft_fast.run.fetch.fetch_wheel", no_wheel)
    options = WatchOptions(eval_steps=3, load_best_model_at_end=True, log_completions=True)
    found = watchers(options, engine, make_rows(2), tmp_path, Reporter(), config)
    assert [type(each) for each in found] == [
        FirstBatch, RolloutAdvice, LambdaAtBound, LogCompletions, KeepBest, StopOnCollapse, EvaluateEvery]
    run(tmp_path / "run", chat, found)
    assert lines(tmp_path / "run/evaluations.jsonl")[0]["eval_general_drift"] is None
    with pytest.raises(UserError, match="--load_best_model_at_end"):
        WatchOptions(load_best_model_at_end=True)
