"""The whole of stage 2 on a tiny random model."""

import shutil
from dataclasses import replace

import pytest
import torch
import watched_run
from tiny import make_rows
from watched_run import lines, same_weights, timeless

from raft_fast.distillation import TrainingState, fitting, plan
from raft_fast.distillation.callbacks import MetricsLog
from raft_fast.distillation.student_pass import StudentPass
from raft_fast.recipes import terms_of
from raft_fast.run.errors import UserError

OPTIONS = replace(watched_run.OPTIONS, num_train_epochs=2, learning_rate=3e-3, steps_per_generation=3)


def run(folder, chat, options=OPTIONS, **more):
    """(student, metrics)."""
    return watched_run.run(folder, chat, options=options, **more), lines(folder / "metrics.jsonl")


def test_a_log_with_a_gap_is_trimmed_by_step(tmp_path):
    """Lines are steps by what they say, not by where they stand."""
    path, first = tmp_path / "metrics.jsonl", '{"step": 1, "skipped": false}\n'
    path.write_text(first + '{"step": 3, "skipped": false}\n{"step": 5, "torn')
    state = TrainingState(tmp_path, None, None, 4, step=2)
    MetricsLog(tmp_path).on_begin(state)
    assert (path.read_text(), state.metrics["step"]) == (first, 1)


@pytest.mark.parametrize(("changes", "falls", "absent"), [
    ({"sft": False, "balance": "fixed", "steps_per_generation": 1}, "kl_loss", ["sft_loss", "ce_kl_ratio"]),
    ({"distillation": False}, "sft_loss", ["kl_loss", "lambda", "rollout_seconds"])])
def test_either_loss_falls_alone(tmp_path, chat, changes, falls, absent):
    options = replace(OPTIONS, num_train_epochs=30, save_steps=0, **changes)
    _, metrics = run(tmp_path / "run", chat, options)
    losses = [step[falls] for step in metrics]
    assert sum(losses[-6:]) < 0.5 * sum(losses[:6])
    assert all(step[name] is None for step in metrics for name in absent)


@pytest.mark.parametrize(("kept", "changes", "scarce"), [
    (2, {"lr_scheduler_type": "constant"}, False), (4, {"lr_scheduler_type": "linear"}, True),
    (3, {"lr_scheduler_type": "linear", "max_steps": 5, "save_steps": 3}, False)])
def test_a_resumed_run_is_the_uninterrupted_run(tmp_path, chat, monkeypatch, kept, changes, scarce):
    """Also in the middle of a buffer of rollouts, which would be drawn from another student now; half written
    checkpoints are ignored, and damaged ones skipped. --max_steps is the length of schedule and run.
    `scarce`: it ran out of memory once, before the checkpoint, and keeps its smaller micro-batches."""
    real, short = StudentPass.forward, [1] * scarce

    def forward(self, examples, targets, counts):
        if len(examples) > 2 and short:
            short.clear()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, examples, targets, counts)

    monkeypatch.setattr(StudentPass, "forward", forward)
    options = replace(OPTIONS, num_train_epochs=3, save_total_limit=9, warmup_steps=1, **changes)
    student, whole = run(tmp_path / "run", chat, options)
    once = timeless(tmp_path / "run")
    for folder in (tmp_path / "run/checkpoints").glob("step-*"):
        if int(folder.name[5:]) > kept:
            (folder / "optimizer.safetensors").write_bytes(bytes(100))
    (tmp_path / "run/checkpoints/.partial-step-000009").mkdir()
    again, _ = run(tmp_path / "run", chat, options)
    assert timeless(tmp_path / "run") == once
    assert [step["lambda_exact"] for step in once] == [not scarce] * len(whole)
    assert same_weights(again.state_dict(), student.state_dict())
    assert len(whole) == (options.max_steps if options.max_steps > 0 else 6)
    if options.lr_scheduler_type == "linear":  # down to zero with the step after the last
        assert whole[-1]["lr"] == pytest.approx(OPTIONS.learning_rate / (len(whole) - 1))


def test_rows_that_do_not_fit_are_set_aside_with_their_reason(chat):
    rows = make_rows(3)
    rows[1] = replace(rows[1], completion="x" * 100)
    length = len(chat.sft_view(rows[0].prompt, rows[0].completion).ids)
    terms = terms_of("raft", OPTIONS)
    for changes, positions, said in (({"max_length": length}, 10_000, f"--max_length {length}"),
                                     ({"distillation": False}, length, f"the model takes {length}")):
        fit, (long,), _ = fitting(rows, chat, terms, replace(OPTIONS, **changes), positions, 1000)
        assert [row.row_id for row in fit] == ["r0", "r2"]
        assert "row_id r1" in long.reason
        assert said in long.reason
    for positions, taught, said in ((20, 10_000, "the model takes 20"), (10_000, 30, "the teacher takes 30")):
        with pytest.raises(UserError, match=said):
            fitting(rows, chat, terms, OPTIONS, positions, taught)


def test_plan_covers_every_row_each_epoch_and_max_steps_decides_alone():
    """As in transformers: the rows come again for as many steps as are asked for, or not all of them come."""
    rows = make_rows(7)
    steps = plan(rows, replace(OPTIONS, num_train_epochs=5), seed=0, size=6)
    assert [len(step) for step in steps] == [6, 1] * 5
    for epoch in range(0, 10, 2):
        ids = [row.row_id for step in steps[epoch : epoch + 2] for row in step]
        assert sorted(ids) == [row.row_id for row in rows]
    for most in (1, 3, 4, 9, 10):
        assert plan(rows, replace(OPTIONS, max_steps=most), seed=0, size=6) == steps[:most]


def test_a_run_never_goes_on_with_other_rows(tmp_path, chat, capsys):
    """One row more is another order for all of them; and waiting trajectories are of the old one."""
    run(tmp_path / "run", chat)
    shutil.rmtree(tmp_path / "run/checkpoints/step-000004")
    with pytest.raises(UserError, match="had other rows, or the same in another order"):
        run(tmp_path / "run", chat, rows=make_rows(7))
    assert "going on" not in capsys.readouterr().err
    run(tmp_path / "run", chat)
    assert "going on from the checkpoint of step 2 of 4" in capsys.readouterr().err
