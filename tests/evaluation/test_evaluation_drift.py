import copy

import pytest
import torch

from raft_fast.engines.hf import HFEngine
from raft_fast.evaluation.drift import compare_tokens, draw_probes, measure_drift, summarize_drift
from raft_fast.evaluation.ifbench import Prompt
from raft_fast.models.chat import View
from raft_fast.run.progress import Reporter


@pytest.fixture
def moved(model):
    """The tiny model after a push in a random direction."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return other


VIEWS = [View([1, 5, 9], [7, 8, 2]), View([1, 4], [6]), View([1, 3], []), View([3, 4, 5, 6], [9] * 300)]


def dense(base, trained, view):
    """The definition: both models' whole logits in float64."""
    p, q = (model(torch.tensor([view.ids])).logits[0].double().log_softmax(-1)[len(view.prompt) - 1 : -1]
            for model in (base, trained))
    ids = torch.tensor(view.completion)[:, None]
    return [float(value) for value in (
        (p.exp() * (p - q)).sum(), -p.gather(1, ids).sum(), -q.gather(1, ids).sum())]


@torch.no_grad()
def test_every_sum_is_the_dense_one_and_a_model_has_not_moved_from_itself(model, moved):
    found = compare_tokens(model, moved, VIEWS, 0, Reporter(), "drift")
    for view, drift in zip(VIEWS, found, strict=True):
        assert drift.tokens == len(view.completion)
        if view.completion:
            assert list(drift[:3]) == pytest.approx(dense(model, moved, view), rel=1e-4, abs=1e-5)
    assert found[0].kl > 0.01
    for drift in compare_tokens(model, model, VIEWS, 0, Reporter(), "drift"):
        assert (drift.kl, drift.nll) == (0, drift.base_nll)


def test_probes_are_what_the_base_says(model, moved, chat):
    base, trained = HFEngine(model, chat, "base"), HFEngine(moved, chat, "trained")
    prompts = [Prompt(str(i), f"Say {i} twice.", [], []) for i in range(3)]
    probes = draw_probes(prompts, base, 6, Reporter())
    assert probes == draw_probes(prompts, base, 6, Reporter())
    assert [view.prompt for view in probes["own"]] == [
        chat.student_prompt([{"role": "user", "content": prompt.text}]) for prompt in prompts]
    assert all(0 < len(view.completion) <= 6 for view in probes["own"])
    assert chat.decode(probes["text"][1].ids) == "Say 1 twice."
    short = draw_probes([Prompt("", text, [], []) for text in ("", "a")], base, 1, Reporter())
    assert short["text"] == []  # nothing is predicted
    found = summarize_drift(measure_drift(base, trained, probes, Reporter()))
    assert found["own"]["kl"]["low"] <= found["own"]["kl"]["mean"] <= found["own"]["kl"]["high"]
    change = found["text"]["nll"]
    assert change["change"]["mean"] == pytest.approx(change["trained"]["mean"] - change["base"]["mean"])
    assert found["text"]["tokens"] == sum(len(view.completion) for view in probes["text"])
