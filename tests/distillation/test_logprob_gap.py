"""Rollout engine against trainer: the right model passes, another one is caught, in float32 and bf16."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import make_model
from watched_run import OPTIONS, lines, run

from raft_fast.distillation import Draw, Trajectory, rollouts
from raft_fast.distillation.rollout_engines import BatchedRollouts
from raft_fast.distillation.rollouts import ANOTHER_MODEL, ROUNDINGS, logprob_gap
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
def test_the_student_itself_passes_and_stale_weights_do_not(chat, capsys, dtype, temperature):
    model = make_model().to(dtype)
    drawn = sampled(chat, model, temperature)
    assert 0 <= logprob_gap(model, chat, temperature, *drawn) <= ROUNDINGS * torch.finfo(dtype).eps + 1e-5
    assert capsys.readouterr().err == ""
    for student, assumed in ((moved(model, 0.5), temperature), (model, temperature / 2)):
        with pytest.raises(UserError, match=r"they did not arrive.* at another temperature"):
            logprob_gap(student, chat, assumed, *drawn)


def test_weights_that_are_a_little_off_are_a_warning(chat, capsys):
    model = make_model()
    assert 2e-4 < logprob_gap(moved(model, 1e-2), chat, 1.0, *sampled(chat, model)) < ANOTHER_MODEL
    assert "warning: rollout engine and trainer log-probs differ" in capsys.readouterr().err


@pytest.mark.parametrize(("values", "said"), [(lambda ids: None, r"sample\(draws, logprobs=True\)"),
                                              (lambda ids: [float("nan")] * len(ids), "differ by nan nats")])
def test_values_that_are_missing_or_no_numbers_are_caught(chat, values, said):
    model = make_model()
    draws, (first, *rest) = sampled(chat, model)
    with pytest.raises(UserError, match=said):
        logprob_gap(model, chat, 1.0, draws, [Trajectory(first.ids, values(first.ids)), *rest])
    assert logprob_gap(model, chat, 1.0, draws[:1], [Trajectory([], [])]) is None
    with pytest.raises(ValueError, match="2 token ids with 1 log-probabilities"):
        Trajectory([1, 2], [-0.5])


def test_any_number_of_processes_compares_the_same_trajectories(chat, monkeypatch):
    model, sums = make_model(), []
    draws, drawn = sampled(chat, model, rows=12)
    for size in (1, 2):
        for rank in range(size):
            processes = SimpleNamespace(rank=rank, size=size, is_first=False,
                                        sum=lambda sums_of_one: sums.append(sums_of_one) or sums_of_one)
            monkeypatch.setattr(rollouts, "Processes", lambda processes=processes: processes)
            logprob_gap(model, chat, 1.0, draws[rank::size], drawn[rank::size])
    alone, *two = sums
    assert torch.allclose(sum(two), alone, atol=1e-4)
    assert sum(two)[1] == alone[1]


class Stale(BatchedRollouts):
    """Keeps the first weights it was given."""

    kept = None

    def sync(self, student):
        self.kept = self.kept or copy.deepcopy(student)
        super().sync(self.kept)


def test_a_run_logs_the_gap_and_stops_when_weights_do_not_arrive(tmp_path, chat):
    options = replace(OPTIONS, num_train_epochs=5)
    run(tmp_path / "right", chat, options=options)
    assert [step["rollout_logprob_gap"] is not None for step in lines(tmp_path / "right/metrics.jsonl")] \
        == [True, True, True, False, True, False, False, False, True, False]
    with pytest.raises(UserError, match="they did not arrive"):
        run(tmp_path / "stale", chat, options=replace(options, learning_rate=0.1),
            rollout_engine=Stale(chat, Sampling(8, 1.0)))
