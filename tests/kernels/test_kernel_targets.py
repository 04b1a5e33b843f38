"""topk_targets and TopKTargets: exactness, ties, what servers send, what is saved."""

import pytest
import torch
from raft_kernels import TopKTargets, topk_targets


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("k", range(2, 21))
def test_nan_ranks_above_everything_and_ties_go_to_the_lower_id(k, backend):
    """Logits of few values, and of NaN, inf and -inf (inf * 0 is NaN), cut at every place."""
    torch.manual_seed(0)
    weight = torch.randint(-1, 2, (20, 2)).float()
    hidden, bias = torch.tensor([[1.0, 2.0], [torch.inf, 1.0], [0.0, 0.0]]), torch.zeros(20)
    bias[0], bias[6:9] = torch.nan, -torch.inf
    for b in (None, bias):
        logits = hidden @ weight.T + (0 if b is None else b)
        right = logits.argsort(dim=-1, descending=True, stable=True)[:, :k]
        assert torch.equal(topk_targets(hidden, weight, k, bias=b, backend=backend).ids, right)


def test_leading_dimensions_are_free_and_padded_rows_are_cut():
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 3, 8), torch.randn(20, 8)
    got = topk_targets(hidden, weight, 6)
    flat = topk_targets(hidden.view(6, 8), weight, 6)
    assert got.ids.shape == (2, 3, 6)
    assert torch.equal(got.ids.view(6, 6), flat.ids)
    one = topk_targets(hidden[1, 2], weight, 6)
    assert torch.equal(one.ids, got.ids[1, 2])
    assert topk_targets(hidden[:0], weight, 6).ids.shape == (0, 3, 6)
    padded = topk_targets(hidden, torch.cat([weight, 100 * torch.ones(4, 8)]), 6, vocab_size=20)
    assert torch.equal(padded.ids, got.ids)
    assert torch.equal(padded.logprobs, got.logprobs)


def test_from_logprobs_knows_its_mass_at_the_same_temperature_alone():
    probabilities = torch.tensor([[0.1, 0.6, 0.2]])
    targets = TopKTargets.from_logprobs(torch.tensor([[7, 3, 5]]), probabilities.log(), 1.5, 1.5)
    assert (targets.ids.tolist(), targets.vocab_size) == ([[3, 5, 7]], 8)
    assert targets.mass.item() == pytest.approx(0.9)
    hidden, weight = torch.randn(4, 8).double(), torch.randn(40, 8).double()
    at_one, at_two = (topk_targets(hidden, weight, 6, t) for t in (1.0, 2.0))
    lists = TopKTargets.from_logprobs(at_one.ids.tolist(), at_one.logprobs, 1.0, 2.0)
    assert lists.mass is None
    assert torch.equal(lists.ids, at_two.ids)
    torch.testing.assert_close(lists.logprobs.softmax(-1), at_two.logprobs.softmax(-1))
