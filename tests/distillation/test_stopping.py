"""Runs that are stopped: by a signal, by kill -9, by steps that are not finite, by nothing to learn."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_loop import OPTIONS, run
from watched_run import lines, same_weights, timeless

from raft_fast.distillation import Callback, SoftStop, Trajectory, losses
from raft_fast.distillation.checkpoint import checkpoints
from raft_fast.distillation.rollouts import BatchedRollouts
from raft_fast.distillation.step import Stepper
from raft_fast.run.errors import Stopped, UserError

STEPS = replace(OPTIONS, num_train_epochs=3, lr_scheduler_type="linear", warmup_steps=1, save_steps=2)


class Signal(Callback):
    """Sends this process a signal after a step, as a scheduler or a user would."""

    def __init__(self, signum, step, times=1):
        self.signum, self.step, self.times = signum, step, times

    def on_step(self, state):
        if state.step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.signum)


def same_end(one, other):
    """Weights, optimizer, state and metrics of two finished runs, bit for bit; times apart."""
    assert timeless(one) == timeless(other)
    last, again = (checkpoints(folder / "checkpoints")[-1] for folder in (one, other))
    for name in ("model/model.safetensors", "optimizer.safetensors"):
        assert same_weights(load_file(last / name), load_file(again / name))
    # balance, schedule and every random generator among them
    assert lines(last / "state.json") == lines(again / "state.json")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_step_finish_and_saves_and_a_second_leaves_at_once(tmp_path, chat, signum, code):
    handler = signal.getsignal(signum)
    for times, said, saved in ((1, "step 3 of 6 .*run the same command again", 3), (2, "at once", 2)):
        folder = tmp_path / f"{times}"
        with pytest.raises(Stopped, match=said) as stopped, SoftStop() as stopping:
            run(folder, chat, STEPS, callbacks=[Signal(signum, 3, times), stopping])
        assert stopped.value.exit_code == code
        assert checkpoints(folder / "checkpoints")[-1].name == f"step-00000{saved}"
        assert signal.getsignal(signum) is handler
    run(tmp_path / "1", chat, STEPS)
    run(tmp_path / "whole", chat, STEPS)
    same_end(tmp_path / "1", tmp_path / "whole")


class EndsWithACheckpoint(Callback):
    def on_save(self, state, checkpoint):
        state.finished = "enough"


def test_an_end_that_on_save_decides_holds_in_a_resumed_run(tmp_path, chat):
    for _ in range(2):
        run(tmp_path / "run", chat, STEPS, callbacks=[EndsWithACheckpoint()])
    assert len(lines(tmp_path / "run/metrics.jsonl")) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, "tests/distillation")
from test_stopping import STEPS, run
from raft_fast.models.chat import Chat
from raft_fast.distillation import checkpoint
from tiny import make_model, make_tokenizer

def die(partial):
    if "step-000004" in partial.name:
        os.kill(os.getpid(), signal.SIGKILL)
    seal(partial)

seal, checkpoint.seal = checkpoint.seal, die
run(Path(sys.argv[1]), Chat(make_tokenizer(), make_model().generation_config, "tiny"), STEPS)"""


def test_kill_9_in_the_middle_of_a_checkpoint(tmp_path, chat):
    """2n steps are n, kill, resume, n: bit for bit, in the middle of a buffer of rollouts too."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root}/tests:{root}/kernels"}
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "run"], cwd=root, env=environment,
                            capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(lines(tmp_path / "run/metrics.jsonl")) == 4
    assert [path.name for path in checkpoints(tmp_path / "run/checkpoints")] == ["step-000002"]
    run(tmp_path / "run", chat, STEPS)
    run(tmp_path / "whole", chat, STEPS)
    same_end(tmp_path / "run", tmp_path / "whole")


def not_finite(monkeypatch, *steps):
    """Poison the loss of these steps, of a run and of those that resume it."""
    count, real, loss = [0], Stepper.run, losses.sft_loss

    def run(self, examples):
        count[0] += 1
        return real(self, examples)

    monkeypatch.setattr(Stepper, "run", run)
    monkeypatch.setattr(losses, "sft_loss", lambda *given: loss(*given) * (
        torch.nan if count[0] in steps else 1.0))


def test_one_bad_step_is_skipped_counted_and_survived(tmp_path, chat, monkeypatch):
    not_finite(monkeypatch, 2)
    student, metrics = run(tmp_path / "run", chat, STEPS)
    assert [step["skipped"] for step in metrics] == [False, True, False, False, False, False]
    assert metrics[1]["skipped_because"] == "not finite"
    assert metrics[1]["loss"] is metrics[1]["sft_loss"] is metrics[1]["grad_norm"] is None
    assert metrics[-1]["skipped_steps"] == 1
    assert all(torch.isfinite(value).all() for value in student.state_dict().values())


@pytest.mark.parametrize("stopped", [False, True])
def test_two_bad_steps_in_a_row_name_the_last_good_checkpoint(tmp_path, chat, monkeypatch, stopped):
    """A stop between them changes nothing, but that there is a checkpoint in between."""
    not_finite(monkeypatch, 3, 4)
    if stopped:
        with pytest.raises(Stopped), SoftStop() as stopping:
            run(tmp_path / "run", chat, STEPS, callbacks=[Signal(signal.SIGTERM, 3), stopping])
    step = 3 if stopped else 2
    with pytest.raises(UserError, match=rf"not finite in steps 3 and 4: .*/step-00000{step}/model"):
        run(tmp_path / "run", chat, STEPS)
    assert len(lines(tmp_path / "run/metrics.jsonl")) == 4
    weights = load_file(tmp_path / f"run/checkpoints/step-00000{step}/model/model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize(("empty", "changes", "trajectories", "skipped"), [
    (99, {"sft": False}, 0, "nothing to learn from"), (99, {}, 0, None),
    (1, {"steps_per_generation": 1}, 2, None)])
def test_empty_completions_are_skipped_and_never_stop_a_run(tmp_path, chat, monkeypatch, empty, changes,
                                                            trajectories, skipped):
    """The first `empty` of what is drawn together."""
    real = BatchedRollouts.sample
    monkeypatch.setattr(BatchedRollouts, "sample", lambda self, draws, logprobs: [
        Trajectory([]) if place < empty else one
        for place, one in enumerate(real(self, draws, logprobs))])
    _, metrics = run(tmp_path / "run", chat, replace(STEPS, **changes))
    assert {(step["trajectories"], step["skipped_because"]) for step in metrics} == {(trajectories, skipped)}
    assert metrics[-1]["skipped_steps"] == (6 if skipped else 0)
    # the schedule waits for real steps
    assert len({step["lr"] for step in metrics}) == (1 if skipped else 6)


def test_steps_without_any_checkpoint_start_over_and_say_so(tmp_path, chat):
    with pytest.raises(Stopped), SoftStop() as stopping:
        run(tmp_path / "run", chat, STEPS, callbacks=[Signal(signal.SIGINT, 1, times=2), stopping])
    with pytest.warns(UserWarning, match="ends at step 1 and no checkpoint"):
        _, metrics = run(tmp_path / "run", chat, STEPS)
    assert [step["step"] for step in metrics] == [1, 2, 3, 4, 5, 6]
