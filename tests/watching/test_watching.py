"""What listens to a run, on a tiny model: evaluation, best weights, collapse, samples, trackers, the hub."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import make_model, make_rows

from raft_fast.chat import View
from raft_fast.distillation import Callback, Teacher, TrainingState, train
from raft_fast.distillation.metrics import speeds
from raft_fast.engines.hf import HFEngine
from raft_fast.errors import UserError
from raft_fast.options import TrainOptions, WatchOptions
from raft_fast.progress import Reporter
from raft_fast.train import finish
from raft_fast.watching import StepsInProgress, hub, watchers
from raft_fast.watching.best import KeepBest
from raft_fast.watching.collapse import StopOnCollapse, collapse_of
from raft_fast.watching.completions import LogCompletions
from raft_fast.watching.evaluation import EvaluateEvery, Scorer, nll
from raft_fast.watching.first_batch import FirstBatch
from raft_fast.watching.split import RolloutAdvice, describe_split
from raft_fast.watching.trackers import Trackers

OPTIONS = TrainOptions(per_device_train_batch_size=3, num_train_epochs=3, teacher_top_k=16,
                       max_completion_length=8, learning_rate=3e-2, save_steps=2)


def run(folder, chat, callbacks=(), options=OPTIONS):
    folder.mkdir(exist_ok=True)
    student = make_model(0)
    train(student, Teacher(make_model(0), chat, 16, 1.5, True), chat, make_rows(6), options, 0, folder,
          callbacks)
    return student


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def make_scorer(chat, original=None):
    rows = make_rows(6)
    return Scorer(chat, [chat.sft_view(row.prompt, row.gold) for row in rows],
                  [View(chat.student_prompt(rows[0].prompt), [70, 71, 72, 2]), View([5], [])],
                  original or make_model(0))


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


def test_a_collapsed_run_says_so_at_its_end_and_is_not_uploaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("raft_fast.watching.hub.push", lambda *_: pytest.fail("uploaded"))
    monkeypatch.setattr("raft_fast.evaluation.print_table", lambda _: None)
    (tmp_path / "model").mkdir()
    (tmp_path / "evaluation.json").write_text("{}")
    why = "collapse at step 3: eval_general_drift 1.5 is above --collapse_threshold 1"
    (tmp_path / "collapse.json").write_text(json.dumps({"step": 3, "reason": why}))
    finish(tmp_path, SimpleNamespace(watch=WatchOptions()), Reporter())
    assert f"warning: training ended early: {why}" in capsys.readouterr().err
    for page in ("model/README.md", "report.html"):
        assert "Training ended early: collapse at step 3" in (tmp_path / page).read_text().replace("\\", "")
    with pytest.raises(UserError, match=r"--push_to_hub me/model: .*collapse at step 3.*hf upload me/model"):
        finish(tmp_path, SimpleNamespace(watch=WatchOptions(push_to_hub="me/model")), Reporter())


def test_completions_are_logged_and_not_twice(tmp_path, chat):
    callbacks = [LogCompletions(3, chat)]
    run(tmp_path / "run", chat, callbacks)
    found = lines(tmp_path / "run/completions.jsonl")
    assert sorted({line["step"] for line in found}) == [1, 3, 6]
    assert set(found[0]) == {"step", "row_id", "prompt", "completion", "answer", "tokens", "ended"}
    (tmp_path / "run/completions.jsonl").open("a").write('{"step": 9, "torn')
    run(tmp_path / "run", chat, callbacks)
    assert lines(tmp_path / "run/completions.jsonl") == found


def test_speeds_are_tokens_over_seconds():
    metrics = {"tokens": 100, "train_seconds": 2.0, "teacher_seconds": None, "rollout_seconds": 4.0}
    assert speeds(metrics, 4, []) == {
        "rollout_tokens": 4, "teacher_tokens": 0, "rollout_tokens_per_second": 1.0,
        "teacher_tokens_per_second": None, "train_tokens_per_second": 50.0}
    told = describe_split({**metrics, "train_tokens_per_second": 50.0, "rollout_tokens_per_second": 1.0})
    assert told == "6.0 s: rollouts 67 % (1 tokens/s), teacher 0 %, training 33 % (50 tokens/s)"


def test_every_step_logs_the_split_and_shows_it(tmp_path, chat):
    notes = []
    run(tmp_path / "run", chat, [StepsInProgress(lambda steps, note="": notes.append((steps, note)))],
        replace(OPTIONS, steps_per_generation=2))
    metrics = lines(tmp_path / "run/metrics.jsonl")
    assert all(step[f"{part}_tokens_per_second"] > 0 for step in metrics for part in ("teacher", "train"))
    assert [step["rollout_tokens"] > 0 for step in metrics] == [True, False] * 3
    assert [steps for steps, _ in notes] == [0] + [1] * 6
    assert all(word in notes[1][1] for word in ("loss", "sft", "kl", "λ", "rollouts", "teacher", "tokens/s"))


def advised(rollout, engine="transformers", on_gpu=False, longest=3, steps=9):
    """What is said over `steps` steps of which rollouts take `rollout` seconds, the rest two."""
    said, metrics = [], {"rollout_seconds": rollout, "teacher_seconds": 1.0, "train_seconds": 1.0,
                         "rollout_tokens": 24}
    advice = RolloutAdvice(1, engine, on_gpu, longest, said.append)
    for _ in range(steps):
        advice.on_step(SimpleNamespace(metrics=metrics, trajectories=[[4, 5, 6], [4, 2]]))
    return said


def test_advice_comes_once_and_only_where_rollouts_dominate():
    (told,) = advised(8.0)
    assert told.startswith("rollouts dominate after 3 steps: rollouts 80 %, teacher 10 %, training 10 %; "
                           "3 tokens/s drawn.")
    assert "--steps_per_generation 4" in told
    assert "a GPU, and there --rollout_engine" in told
    assert "--max_completion_length (50 % of the trajectories reach its 3 tokens)" in told
    assert advised(1.0) == advised(8.0, steps=2) == []


def test_advice_names_only_what_is_not_done_yet():
    (told,) = advised(8.0, on_gpu=True)
    assert "; --rollout_engine continuous or vllm;" in told
    (told,) = advised(8.0, engine="vllm", on_gpu=True, longest=9)
    assert "--rollout_engine" not in told
    assert "--max_completion_length" not in told


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
    (tmp_path / "run/first_batch.md").unlink()
    run(tmp_path / "run", chat, [FirstBatch(chat)], replace(options, max_steps=3))
    assert not (tmp_path / "run/first_batch.md").exists()  # a run that goes on has no first batch


@pytest.fixture
def stub_tracker(monkeypatch):
    from accelerate import tracking

    class Stub(tracking.GeneralTracker):
        name, requires_logging_directory, made = "stub", True, []

        def __init__(self, run_name, logging_dir=None):
            super().__init__()
            self.values, self.config, self.finished, self.broken = [], None, False, False
            Stub.made.append(self)

        @property
        def tracker(self):
            return self

        def store_init_configuration(self, values):
            self.config = values

        def log(self, values, step=None, **kwargs):
            if self.broken:
                raise ConnectionError("service is down")
            self.values.append((step, values))

        def finish(self):
            self.finished = True

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "stub", Stub)
    return Stub


def test_trackers_get_every_number(tmp_path, chat, stub_tracker):
    trackers = Trackers(["stub"], tmp_path / "run", {"learning_rate": 0.1, "revision": None})
    run(tmp_path / "run", chat, [trackers, EvaluateEvery(3, make_scorer(chat))])
    (stub,) = stub_tracker.made
    assert stub.config == {"learning_rate": 0.1, "revision": "None"}
    assert stub.finished
    steps = [step for step, values in stub.values if "loss" in values]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [step for step, values in stub.values if "eval_domain_nll" in values] == [0, 3, 6]
    assert all(isinstance(value, float) for _, values in stub.values for value in values.values())
    stub_tracker.made.clear()


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(tmp_path, chat, stub_tracker):
    trackers = Trackers(["stub"], tmp_path / "run", {})
    stub_tracker.made.pop().broken = True
    with pytest.warns(UserWarning, match="tracker stub failed and is left out: service is down"):
        run(tmp_path / "run", chat, [trackers])
    assert len(lines(tmp_path / "run/metrics.jsonl")) == 6


def test_unknown_and_missing_trackers_are_named(tmp_path):
    with pytest.raises(UserError, match="--report_to nonsense"):
        Trackers(["nonsense"], tmp_path, {})
    with pytest.raises(UserError, match="--report_to clearml: not installed"):
        Trackers(["clearml"], tmp_path, {})


def test_the_options_choose_who_listens(tmp_path, chat, monkeypatch):
    engine = HFEngine(make_model(0), chat, "tiny")
    config = {"steps_per_generation": 1, "rollout_engine": "transformers", "max_completion_length": 8}
    assert [type(each) for each in watchers(WatchOptions(), engine, [], tmp_path, Reporter(), config)] \
        == [FirstBatch, RolloutAdvice]

    def no_wheel(name):
        raise UserError("cannot be fetched")

    monkeypatch.setattr("raft_fast.fetch.fetch_wheel", no_wheel)
    options = WatchOptions(eval_steps=3, load_best_model_at_end=True, log_completions=True)
    found = watchers(options, engine, make_rows(2), tmp_path, Reporter(), config)
    assert [type(each) for each in found] == [
        FirstBatch, RolloutAdvice, LogCompletions, KeepBest, StopOnCollapse, EvaluateEvery]
    run(tmp_path / "run", chat, found)
    assert lines(tmp_path / "run/evaluations.jsonl")[0]["eval_general_drift"] is None
    with pytest.raises(UserError, match="--load_best_model_at_end"):
        WatchOptions(load_best_model_at_end=True)


def test_the_hub_gets_the_folder_and_a_refusal_is_one_line(tmp_path, monkeypatch):
    import huggingface_hub

    calls = []

    class Api:
        def create_repo(self, name, **options):
            calls.append((name, options))
            if name == "no/way":
                raise OSError("offline")
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{name}")

        def upload_folder(self, **options):
            calls.append(options)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert hub.push(tmp_path, "me/model") == "https://huggingface.co/me/model"
    assert calls[0] == ("me/model", {"private": True, "exist_ok": True})
    assert calls[1]["folder_path"] == tmp_path
    assert calls[1]["repo_id"] == "me/model"
    with pytest.raises(UserError, match="--push_to_hub no/way: offline; the model is in"):
        hub.push(tmp_path, "no/way")
