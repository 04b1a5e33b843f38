"""The whole of stage 2 on a tiny random model."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from tiny import make_model, make_rows

from raft_fast.distillation import Callback, Teacher, TrainingState, fitting, measure, plan, train
from raft_fast.distillation.callbacks import MetricsLog
from raft_fast.distillation.student_pass import StudentPass
from raft_fast.recipes import terms_of
from raft_fast.run.errors import UserError
from raft_fast.run.options import TrainOptions

OPTIONS = TrainOptions(per_device_train_batch_size=3, num_train_epochs=2, teacher_top_k=16,
                       max_completion_length=8, learning_rate=3e-3, save_steps=2,
                       steps_per_generation=3)
TIMES = {"peak_memory_bytes", *(f"{part}_{measure}" for part in ("rollout", "teacher", "train")
                                for measure in ("seconds", "tokens_per_second"))}


def run(folder, chat, options=OPTIONS, rows=None, seed=0, callbacks=()):
    folder.mkdir(exist_ok=True)
    student = make_model(0)
    teacher = Teacher(make_model(0), chat, options.teacher_top_k, options.distillation_temperature)
    train(student, teacher if options.distillation else None, chat, rows or make_rows(6),
          terms_of("raft", options), options, seed, folder, callbacks)
    return student, metrics_of(folder)


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(metrics):
    return [{key: value for key, value in step.items() if key not in TIMES} for step in metrics]


def same_run(one, other):
    """Two (student, metrics): equal weights and metrics, bit for bit; times apart."""
    assert timeless(one[1]) == timeless(other[1])
    assert all(torch.equal(a, b) for a, b in
               zip(one[0].state_dict().values(), other[0].state_dict().values(), strict=True))


def test_a_log_with_a_gap_is_trimmed_by_step(tmp_path, chat, monkeypatch):
    """Lines are steps by what they say, not by where they stand; and the rewrite is durable."""
    run(tmp_path / "run", chat)
    path = tmp_path / "run/metrics.jsonl"
    first, _, *rest = path.read_text().splitlines(keepends=True)
    shutil.rmtree(tmp_path / "run/checkpoints/step-000004")  # training goes on from step 2
    path.write_text("".join([first, *rest, '{"step": 5, "torn']))
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino) or fsync(number))
    log, state = MetricsLog(tmp_path / "run"), TrainingState(tmp_path / "run", None, None, 4, step=2)
    log.on_begin(state)
    log.on_end(state)
    assert path.read_text() == first
    assert path.stat().st_ino in synced
    assert state.metrics["step"] == 1


def test_one_seed_gives_identical_metrics_and_another_does_not(tmp_path, chat):
    first, second, other = (run(tmp_path / name, chat, seed=seed)[1]
                            for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert timeless(first) == timeless(second)
    assert timeless(first) != timeless(other)


def test_the_kl_falls_when_only_the_kl_term_is_on(tmp_path, chat):
    options = replace(OPTIONS, sft=False, num_train_epochs=30, steps_per_generation=1, save_steps=0,
                      balance="fixed")
    _, metrics = run(tmp_path / "run", chat, options)
    losses = [step["kl_loss"] for step in metrics]
    assert sum(losses[-6:]) < 0.5 * sum(losses[:6])
    assert all(step["sft_loss"] is None and step["ce_kl_ratio"] is None for step in metrics)


def test_plain_sft_has_no_teacher_and_learns(tmp_path, chat):
    options = replace(OPTIONS, distillation=False, num_train_epochs=20, save_steps=0)
    _, metrics = run(tmp_path / "run", chat, options)
    assert metrics[-1]["sft_loss"] < 0.5 * metrics[0]["sft_loss"]
    assert metrics[0]["kl_loss"] is metrics[0]["lambda"] is metrics[0]["rollout_seconds"] is None


@pytest.mark.parametrize(("kept", "schedule"), [(2, "constant"), (4, "linear")])
def test_a_resumed_run_is_the_uninterrupted_run(tmp_path, chat, kept, schedule):
    """Also in the middle of a buffer of rollouts, which would be drawn from another student now; half written
    checkpoints are ignored, and damaged ones skipped."""
    options = replace(OPTIONS, num_train_epochs=3, save_total_limit=9, lr_scheduler_type=schedule,
                      warmup_steps=1)
    whole = run(tmp_path / "run", chat, options)
    for step in range(kept + 2, 7, 2):
        (tmp_path / f"run/checkpoints/step-{step:06d}/optimizer.safetensors").write_bytes(bytes(100))
    (tmp_path / "run/checkpoints/.partial-step-000009").mkdir()
    same_run(run(tmp_path / "run", chat, options), whole)


def test_a_resumed_run_keeps_the_micro_batches_that_memory_asked_for(tmp_path, chat, monkeypatch):
    """It ran out of memory once, before the checkpoint, and would not again."""
    real, scarce = StudentPass.forward, [True]

    def forward(self, examples, targets, counts):
        if len(examples) > 2 and scarce:
            scarce.clear()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, examples, targets, counts)

    monkeypatch.setattr(StudentPass, "forward", forward)
    options = replace(OPTIONS, save_total_limit=9)
    whole = run(tmp_path / "run", chat, options)
    shutil.rmtree(tmp_path / "run/checkpoints/step-000004")
    same_run(run(tmp_path / "run", chat, options), whole)


def test_rows_that_do_not_fit_are_set_aside_with_their_reason(chat):
    rows = make_rows(3)
    rows[1] = replace(rows[1], completion="x" * 100)
    length = len(chat.sft_view(rows[0].prompt, rows[0].completion).ids)
    lengths = measure(rows, chat, terms_of("raft", OPTIONS), OPTIONS)
    fit, long = fitting(rows, lengths, replace(OPTIONS, max_length=length), positions=10_000)
    assert [row.row_id for row in fit] == ["r0", "r2"]
    assert "row_id r1" in long[0].reason
    assert "--max_length" in long[0].reason
    with pytest.raises(UserError, match="the model takes 20"):
        fitting(rows, lengths, OPTIONS, positions=20)
    with pytest.raises(UserError, match="the teacher takes 30"):
        fitting(rows, lengths, OPTIONS, positions=10_000, teacher_positions=30)
    _, long = fitting(rows, lengths, replace(OPTIONS, distillation=False), length, teacher_positions=30)
    assert "row_id r1" in long[0].reason
    assert f"the model takes {length}" in long[0].reason


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


def test_max_steps_is_the_length_of_schedule_and_run(tmp_path, chat):
    options = replace(OPTIONS, num_train_epochs=1, max_steps=5, lr_scheduler_type="linear", save_steps=3)
    run(tmp_path / "run", chat, options)
    shutil.rmtree(tmp_path / "run/checkpoints/step-000005")
    _, metrics = run(tmp_path / "run", chat, options)
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5]
    assert [line["lr"] for line in metrics] == pytest.approx([OPTIONS.learning_rate * (5 - n) / 5
                                                              for n in range(5)])


@pytest.mark.parametrize("count", [5, 7])
def test_a_run_never_goes_on_with_other_rows(tmp_path, chat, capsys, count):
    """One row more, or one set aside, is another order for all of them; and waiting trajectories are of the
    old one."""
    run(tmp_path / "run", chat)
    shutil.rmtree(tmp_path / "run/checkpoints/step-000004")
    with pytest.raises(UserError, match="had other rows, or the same in another order"):
        run(tmp_path / "run", chat, rows=make_rows(count))
    assert "going on" not in capsys.readouterr().err
    run(tmp_path / "run", chat)
    assert "going on from the checkpoint of step 2 of 4" in capsys.readouterr().err


def first_step(folder, chat, rollout, distillation):
    """Trajectories and KL loss of the first step at two temperatures."""
    options = replace(OPTIONS, rollout_temperature=rollout, distillation_temperature=distillation,
                      max_steps=1)
    heard = []

    class Listener(Callback):
        def on_step(self, state):
            heard.append((state.trajectories, state.metrics["kl_loss"]))

    run(folder, chat, options, callbacks=[Listener()])
    return heard[0]


def test_the_two_temperatures_do_not_meet(tmp_path, chat):
    """What is sampled knows nothing of T, and targets nothing of the rollout temperature."""
    plain, soft = (first_step(tmp_path / f"soft{at}", chat, 1.0, at) for at in (1.0, 1.5))
    assert plain[0] == soft[0]
    assert plain[1] != soft[1]
    cold, colder = (first_step(tmp_path / f"cold{at}", chat, at, 1.5) for at in (1e-4, 1e-5))
    assert cold == colder  # both take the likeliest token
    assert cold[0] != soft[0]
