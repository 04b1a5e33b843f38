"""Where a step's time goes, and the advice where rollouts dominate."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

from watched_run import OPTIONS, lines, run

from raft_fast.distillation.checkpoint import checkpoints
from raft_fast.distillation.metrics import speeds
from raft_fast.distillation.watching import RolloutAdvice, StepsInProgress, describe_split


def test_speeds_are_tokens_over_seconds():
    metrics = {"tokens": 100, "train_seconds": 2.0, "teacher_seconds": None, "rollout_seconds": 4.0}
    assert speeds(metrics, 4, []) == {
        "rollout_tokens": 4, "teacher_tokens": 0, "rollout_tokens_per_second": 1.0,
        "teacher_tokens_per_second": None, "train_tokens_per_second": 50.0}
    told = describe_split({**metrics, "train_tokens_per_second": 50.0, "rollout_tokens_per_second": 1.0})
    assert told == "6.0 s: rollouts 67 % (1 tokens/s), teacher 0 %, training 33 % (50 tokens/s)"


def shown():
    """A reporter of steps, and the (steps, note, steps found) that it was told."""
    told = []
    return StepsInProgress(lambda steps, note="", found=0: told.append((steps, note, found))), told


def test_every_step_logs_the_split_and_shows_it(tmp_path, chat):
    steps, told = shown()
    run(tmp_path / "run", chat, [steps], replace(OPTIONS, steps_per_generation=2))
    metrics = lines(tmp_path / "run/metrics.jsonl")
    assert all(step[f"{part}_tokens_per_second"] > 0 for step in metrics for part in ("teacher", "train"))
    assert [step["rollout_tokens"] > 0 for step in metrics] == [True, False] * 3
    assert [steps for steps, *_ in told] == [0] + [1] * 6
    assert all(word in told[1][1] for word in ("loss", "sft", "kl", "λ", "rollouts", "teacher", "tokens/s"))


def advised(rollout, engine="transformers", on_gpu=False, longest=3, steps=9):
    """What is said over `steps` steps of which rollouts take `rollout` seconds, the rest two."""
    said, metrics = [], {"rollout_seconds": rollout, "teacher_seconds": 1.0, "train_seconds": 1.0,
                         "rollout_tokens": 24}
    advice = RolloutAdvice(1, engine, on_gpu, longest, said.append)
    for _ in range(steps):
        advice.on_step(SimpleNamespace(metrics=metrics, trajectories=[[4, 5, 6], [4, 2]]))
    return said


def test_advice_comes_once_only_where_rollouts_dominate_and_names_what_is_not_done_yet():
    (told,) = advised(8.0)
    assert told.startswith("rollouts dominate after 3 steps: rollouts 80 %, teacher 10 %, training 10 %; "
                           "3 tokens/s drawn.")
    for said in ("--steps_per_generation 4", "a GPU, and there --rollout_engine",
                 "--max_completion_length (50 % of the trajectories reach its 3 tokens)"):
        assert said in told
    assert advised(1.0) == advised(8.0, steps=2) == []
    assert "; --rollout_engine continuous or vllm;" in advised(8.0, on_gpu=True)[0]
    (told,) = advised(8.0, engine="vllm", on_gpu=True, longest=9)
    assert "--rollout_engine" not in told
    assert "--max_completion_length" not in told


def test_the_last_evaluation_stands_beside_the_last_step():
    steps, told = shown()
    steps.on_evaluate(None, {"eval_domain_nll": 3.0, "eval_general_drift": None})
    steps.on_evaluate(None, {"eval_domain_nll": 2.5, "eval_general_drift": 0.25})
    assert [note for _, note, _ in told] == ["domain_nll 3", "domain_nll 2.5  general_drift 0.25"]


def test_steps_of_an_earlier_start_are_found_not_done(tmp_path, chat):
    (steps, told), options = shown(), replace(OPTIONS, save_steps=4)
    run(tmp_path / "run", chat, options=options)
    shutil.rmtree(checkpoints(tmp_path / "run/checkpoints")[-1])
    run(tmp_path / "run", chat, [steps], options)
    assert [(done, found) for done, _, found in told] == [(0, 4), (1, 0), (1, 0)]
