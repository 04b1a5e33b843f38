"""Trajectories where memory is scarce, and what each of several processes goes on with."""

from types import SimpleNamespace

import pytest
import torch
from tiny import make_model

from raft_fast.distillation import Draw
from raft_fast.distillation.checkpoint import go_on, of_each_process, seed_process
from raft_fast.distillation.rollouts import local
from raft_fast.distillation.rollouts.local import BatchedRollouts, RolloutBatch
from raft_fast.engines import Sampling
from raft_fast.run.errors import UserError


def scarce(monkeypatch, rows):
    """Memory for at most `rows` rows of generation; returns the sizes that were tried."""
    real, tried = local.generate_ids, []

    def generate(model, chat, prompts, *rest):
        tried.append(len(prompts))
        if len(prompts) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore lines")
        return real(model, chat, prompts, *rest)

    monkeypatch.setattr(local, "generate_ids", generate)
    return tried


def sample(chat, rows, batch=None):
    engine = BatchedRollouts(chat, Sampling(4, 1.0), batch)
    engine.sync(make_model(0))
    draws = [Draw(chat.student_prompt(row.prompt), seed) for seed, row in enumerate(rows)]
    return [trajectory.ids for trajectory in engine.sample(draws, logprobs=False)]


def test_out_of_memory_halves_the_rollouts_for_good(chat, rows, monkeypatch, capsys):
    want, batch = sample(chat, rows), RolloutBatch()
    tried = scarce(monkeypatch, 2)
    assert sample(chat, rows, batch) == want
    assert tried == [6, 3, 2, 2, 2]
    assert sample(chat, rows, batch) == want
    assert tried[5:] == [2, 2, 2]
    assert capsys.readouterr().err.count("out of memory") == 2


def test_one_trajectory_that_does_not_fit_gives_up_with_advice(chat, rows, monkeypatch):
    scarce(monkeypatch, 0)
    with pytest.raises(UserError, match=r"one trajectory was sampled \(CUDA out of.*1 GiB\): --gradient"):
        sample(chat, rows)


def test_tokens_bound_a_round_of_rollouts(chat, rows, monkeypatch):
    longest = max(len(chat.student_prompt(row.prompt)) for row in rows) + 4
    tried = scarce(monkeypatch, 99)
    sample(chat, rows, RolloutBatch(tokens=2 * longest))
    assert tried == [2, 2, 2]
    assert RolloutBatch().fitting(1 << 30) == 1


def drawn(processes, kept, batch):
    go_on(kept, BatchedRollouts(None, None, batch), processes, [0, 5])
    return torch.rand(()).item()


def test_every_process_goes_on_with_its_own_random_numbers():
    one, two = (SimpleNamespace(rank=rank, size=2, collect=list) for rank in range(2))
    kept, expected = [], []
    for process, rows in ((one, 8), (two, 16)):
        seed_process(process, 0, 0)
        kept += of_each_process(BatchedRollouts(None, None, RolloutBatch(rows)), process)
        expected.append(torch.rand(()).item())
    assert expected[0] != expected[1]  # dropout masks of two processes have nothing in common
    batches = [RolloutBatch(), RolloutBatch()]
    assert [drawn(one, kept, batches[0]), drawn(two, kept, batches[1])] == expected
    assert [batch.rows for batch in batches] == [8, 16]
    alone = SimpleNamespace(rank=0, size=1)
    assert drawn(alone, kept, RolloutBatch()) == drawn(alone, kept, RolloutBatch()) not in expected
