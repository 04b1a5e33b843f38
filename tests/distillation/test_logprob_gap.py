"""Rollout engine against trainer: the right model passes, another one is caught, in float32 and bf16."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_loop import OPTIONS, run
from tiny import make_model

from raft_fast.distillation import Draw, Trajectory
from raft_fast.distillation.rollouts import buffer
from raft_fast.distillation.rollouts.buffer import ANOTHER_MODEL, CHECKED, Gap, GapCheck, rounding
from raft_fast.distillation.rollouts.local import BatchedRollouts
from raft_fast.engines import Sampling
from raft_fast.run.errors import UserError


def sampled(chat, model, temperature=1.0, rows=6):
    """(draws, trajectories) of an engine that samples from `model`."""
    engine = BatchedRollouts(chat, Sampling(12, temperature))
    draws = [Draw([1, 2, 3 + row], row) for row in range(rows)]
    engine.sync(model)
    return draws, engine.sample(draws, logprobs=True)


def moved(model, by):
    """A copy whose weights are `by` of their own size away."""
    torch.manual_seed(1)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += by * parameter.std() * torch.randn_like(parameter)
    return other


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_student_itself_passes(chat, capsys, dtype, temperature):
    model = make_model().to(dtype)
    found = GapCheck(chat, temperature).check(0, model, *sampled(chat, model, temperature))
    assert 0 <= found <= rounding(model)
    told = capsys.readouterr().err
    assert told.count("log-probs differ by") == 1
    assert "warning" not in told


def test_an_engine_that_does_not_say_how_likely_its_tokens_were_is_told_to(chat):
    model = make_model()
    draws, drawn = sampled(chat, model)
    with pytest.raises(UserError, match=r"sample\(draws, logprobs=True\)"):
        GapCheck(chat, 1.0).check(0, model, draws, [Trajectory(one.ids) for one in drawn])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stale_weights_are_caught(chat, dtype):
    """The engine kept the weights that it began with."""
    model = make_model().to(dtype)
    with pytest.raises(UserError, match="they did not arrive"):
        GapCheck(chat, 1.0).check(4, moved(model, 0.5), *sampled(chat, model))


def test_weights_that_are_a_little_off_are_a_warning(chat, capsys):
    model = make_model()
    found = GapCheck(chat, 1.0).check(0, moved(model, 1e-3), *sampled(chat, model))
    assert rounding(model) < found < ANOTHER_MODEL
    assert "warning: rollout engine and trainer log-probs differ" in capsys.readouterr().err


@pytest.mark.parametrize("resumed", [False, True])
def test_in_bf16_a_slightly_stale_policy_is_seen(chat, capsys, resumed):
    """Held against the rounding of refill 0: what it may be in bf16 at all hides the difference."""
    begun = make_model().bfloat16()
    check = GapCheck(chat, 1.0)
    usual = check.check(0, begun, *sampled(chat, begun))
    if resumed:
        kept, check = json.loads(json.dumps(check.state())), GapCheck(chat, 1.0)
        check.load(kept)
    now = moved(make_model(), 0.01).bfloat16()  # as float32 weights that are handed over in bf16
    fresh = check.check(1, now, *sampled(chat, now))
    assert "warning" not in capsys.readouterr().err
    stale = check.check(2, now, *sampled(chat, begun))
    assert "warning: rollout engine and trainer log-probs differ" in capsys.readouterr().err
    assert max(usual, fresh) < stale < rounding(now)


def test_a_mean_that_chance_explains_is_no_warning(chat, capsys):
    """The same spread on fewer tokens."""
    check = GapCheck(chat, 1.0)
    check.load([20.0, 1.0, 1000.0])  # 0.02 nats a token, and about as much spread
    model = make_model().bfloat16()
    for tokens, far in ((4, False), (4000, True)):
        gap = Gap(0.04 * tokens, tokens * (0.04**2 + 0.03**2), tokens)
        assert (gap.mean > check._bound(gap, model)) == far


def test_another_temperature_is_caught(chat):
    model = make_model()
    for engine, asked in ((0.5, 1.0), (1.0, 0.5)):
        with pytest.raises(UserError, match="at another temperature"):
            GapCheck(chat, asked).check(0, model, *sampled(chat, model, engine))


def test_values_that_are_no_numbers_are_caught(chat):
    draws, (first, *rest) = sampled(chat, make_model())
    broken = Trajectory(first.ids, [float("nan")] * len(first.ids))
    with pytest.raises(UserError, match="differ by nan nats/token"):
        GapCheck(chat, 1.0).check(0, make_model(), draws, [broken, *rest])


def test_every_trajectory_has_its_values():
    with pytest.raises(ValueError, match="2 token ids with 1 log-probabilities"):
        Trajectory([1, 2], [-0.5])


def test_refills_are_looked_at_ever_less_often_and_at_every_start(chat):
    model, check = make_model(), GapCheck(chat, 1.0)
    drawn = sampled(chat, model)
    looked = [check.check(refill, model, *drawn) is not None for refill in range(10)]
    assert [refill for refill, at in enumerate(looked) if at] == [0, 1, 2, 4, 8]
    with pytest.raises(UserError, match="they did not arrive"):  # the first one of a run that goes on
        GapCheck(chat, 1.0).check(3, moved(model, 0.5), *drawn)
    assert GapCheck(chat, 1.0).check(3, model, *drawn) is None  # and yet metrics.jsonl is what it would be


def test_empty_trajectories_wait_for_the_next_refill(chat, capsys):
    model, check = make_model(), GapCheck(chat, 1.0)
    assert check.check(0, model, [Draw([1], 0)], [Trajectory([], [])]) is None
    assert check.check(3, model, *sampled(chat, model)) is None
    assert "log-probs differ" in capsys.readouterr().err


def test_any_number_of_processes_looks_at_the_same_trajectories(chat, monkeypatch):
    model = make_model()
    draws, drawn = sampled(chat, model, rows=12)
    first = [(draw.prompt, one) for draw, one in zip(draws, drawn, strict=True)][:CHECKED]
    alone = GapCheck(chat, 1.0)._compare(model, first)
    sums = []
    for rank in range(2):
        processes = SimpleNamespace(rank=rank, size=2, is_first=False, sum=lambda t: sums.append(t) or t)
        monkeypatch.setattr(buffer, "Processes", lambda processes=processes: processes)
        GapCheck(chat, 1.0).check(0, model, draws[rank::2], drawn[rank::2])
    assert torch.allclose(sum(sums), alone, atol=1e-4)
    assert sum(sums)[2] == alone[2]


class Stale(BatchedRollouts):
    """Keeps the first weights it was given."""

    def __init__(self, chat, sampling):
        super().__init__(chat, sampling)
        self.kept = None

    def sync(self, student):
        self.kept = self.kept or copy.deepcopy(student)
        super().sync(self.kept)


def test_a_run_logs_the_gap_and_stops_where_weights_do_not_arrive(tmp_path, chat, monkeypatch):
    options = replace(OPTIONS, steps_per_generation=1, num_train_epochs=4)
    _, metrics = run(tmp_path / "right", chat, options)
    assert [step["rollout_logprob_gap"] is not None for step in metrics] \
        == [True, True, True, False, True, False, False, False]
    monkeypatch.setattr("raft_fast.distillation.loop.make_engine",
                        lambda options, chat, student: Stale(chat, Sampling(8, 1.0)))
    with pytest.raises(UserError, match="they did not arrive"):
        run(tmp_path / "stale", chat, replace(options, learning_rate=0.1))
