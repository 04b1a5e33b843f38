"""The step benchmark: its gate, what it refuses to compare, and its figures."""

from dataclasses import replace

import pytest
import torch

from benchmarks.step import __main__ as table
from benchmarks.step import gate as gate_module
from benchmarks.step.gate import gate
from benchmarks.step.ours import Job, run
from raft_fast.distillation import losses

TINY = Job("random-llama-tiny", "cpu", rows=2, steps=2, max_completion_length=4, top_k=16,
           precision="float32")


def one(seconds=2.0, peak=100, **changed):
    step = {"seconds": seconds, "rollout_seconds": 0.5, "teacher_seconds": 0.5, "train_seconds": 0.9,
            "rollout_tokens": 8, "teacher_tokens": 40, "student_tokens": 30, **changed}
    slow = step | {"seconds": 99.0}
    return {"steps": [slow, slow | {"compared": True}, step, step, step], "seconds": 5.0, "peak_bytes": peak}


def learns_as(change):
    """AdamW with other options."""
    right = gate_module.adamw
    return gate_module, "adamw", lambda student, options: right(student, change(options))


KL, CLIP = losses.kl_loss, torch.nn.utils.clip_grad_norm_
BROKEN = {  # what is replaced, and by what
    # as a T² would be that is not in the gradient, or Eq. 10's mean over other tokens
    "KL": lambda: (losses, "kl_loss", lambda *given: 1.00001 * KL(*given)),
    # λ from averages of another length
    "averages": lambda: (losses.Balance, "of", lambda options: losses.Balance(0.89, options.lambda_max)),
    "clipping": lambda: (torch.nn.utils, "clip_grad_norm_", lambda given, most: CLIP(given, 1.0001)),
    "rate": lambda: learns_as(lambda one: replace(one, learning_rate=1.0001 * one.learning_rate)),
    "decay": lambda: learns_as(lambda one: replace(one, weight_decay=0.09))}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_gate_is_green(precision):
    assert gate(replace(TINY, precision=precision))["green"]


@pytest.mark.parametrize("broken", BROKEN)
def test_the_gate_turns_red_where_a_step_is_a_little_wrong(monkeypatch, broken):
    monkeypatch.setattr(*BROKEN[broken]())
    assert not gate(TINY)["green"]


def test_our_loop_is_measured_without_moving_a_weight():
    """The same trajectories in every run and with or without the SFT term."""
    whole, alone = run(TINY, sft=True), run(TINY, sft=False)
    assert len(whole) == len(alone) == 2
    for more, less in zip(whole, alone, strict=True):
        assert more["rollout_tokens"] == less["rollout_tokens"]
        assert more["teacher_tokens"] == less["teacher_tokens"]
        assert more["student_tokens"] > less["student_tokens"]
        assert sum(more[f"{part}_seconds"] for part in ("rollout", "teacher", "train")) < more["seconds"]


@pytest.mark.parametrize("name", ["SDFTTrainer", "DistillationTrainer"])
def test_trl_reads_the_tokens_that_we_read(name):
    pytest.importorskip("trl")
    from benchmarks.step import trl_trainers

    if name == "SDFTTrainer":
        pytest.importorskip("trl.experimental.sdft")
    theirs, ours = trl_trainers.run(replace(TINY, steps=2), name), run(TINY, sft=False)
    for rival, own in zip(theirs, ours, strict=True):
        assert (rival["student_tokens"], rival["rollout_tokens"]) == (own["student_tokens"],
                                                                      own["rollout_tokens"])
        parts = sum(rival[f"{part}_seconds"] for part in ("rollout", "teacher", "train"))
        assert 0 < parts < rival["seconds"]


def test_steps_of_other_tokens_are_not_counted():
    with pytest.raises(SystemExit, match=r"0 would be counted.*student_tokens raft-fast, KL alone \[30\]"):
        table.summarise({table.ALONE: [one()], table.SDFT: [one(student_tokens=29)]})
    assert table.other_tokens({table.OURS: [one(student_tokens=60)], table.SDFT: [one()]}) == {}
    longer, rival = one(), one()
    for run_of in (longer, rival):
        run_of["steps"] = [dict(step) for step in [*run_of["steps"], run_of["steps"][-1]]]
    rival["steps"][3]["rollout_tokens"] += 1
    found = table.summarise({table.ALONE: [longer], table.SDFT: [rival]})
    assert found["steps_counted"] == [2, 4, 5]
    assert list(found["other_tokens"]) == [3]
