"""Every rollout engine gets the student's weights, draws from them and says how likely its draws were; and
another model than the trainer's is caught by that."""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import vllm_stand_in
from tiny import make_model
from watched_run import OPTIONS, lines, run

from raft_fast.distillation import Adapter, Draw, Trajectory
from raft_fast.distillation.rollouts import ANOTHER_MODEL, ROUNDINGS, BatchedRollouts, logprob_gap
from raft_fast.engines import Sampling
from raft_fast.run.errors import UserError
from raft_fast.run.options import AdapterOptions

sys.path.append(str(Path(__file__).parents[2] / "examples"))
from vllm_rollouts import VLLMRollouts, weights_for_engine

DRAWS = [*(Draw([1, 2, 3 + row], row) for row in range(6)), Draw([1, 2, 3], 99)]


@pytest.fixture
def vllm(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", vllm_stand_in)


def engine_of(name, chat, temperature=1.0):
    sampling = Sampling(8, temperature)
    if name == "transformers":
        return BatchedRollouts(chat, sampling)
    return VLLMRollouts(chat, sampling, "folder", 128, 0.3)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("name", ["transformers", "vllm"])
def test_engines_draw_from_the_student_as_it_is_now(chat, vllm, name, temperature):
    engine = engine_of(name, chat, temperature)
    for seed in (1, 2):
        student = make_model(seed).train()
        for parameter in student.parameters():  # what a bf16 copy loses is not the matter here
            parameter.data = parameter.data.bfloat16().float()
        attention = student.config._attn_implementation
        engine.sync(student)
        drawn = engine.sample(DRAWS, logprobs=True)
        assert logprob_gap(student, chat, temperature, DRAWS, drawn) < 1e-4
        assert all(0 < len(one.ids) <= 8 and not chat.eos_ids & set(one.ids[:-1]) for one in drawn)
        assert drawn[0].ids != drawn[-1].ids  # one prompt, two seeds
        assert student.training
        assert student.config._attn_implementation == attention
    engine.sync(student)  # a draw depends on its seed alone
    assert [one.ids for one in engine.sample(DRAWS[::-1])][::-1] == [one.ids for one in drawn]
    engine.sync(student)
    assert engine.sample([], logprobs=True) == []
    assert getattr(engine, "student", None) is None  # no copy is kept while the student trains


def test_an_adapter_goes_over_merged_and_tied_weights_once(chat):
    student = make_model(0, tie_word_embeddings=True)
    names = [name for name, _ in student.named_parameters()]
    adapter = Adapter(student, AdapterOptions(use_peft=True, lora_r=4))
    for name, parameter in student.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    found = weights_for_engine(student)
    assert sorted(found) == sorted(names)
    merged, original = (make_model(0, tie_word_embeddings=True) for _ in range(2))
    merged.load_state_dict({name: tensor.float() for name, tensor in found.items()}, strict=False)
    ids = torch.arange(1, 9)[None]
    want, got, base = (model(input_ids=ids).logits for model in (adapter.model, merged, original))
    assert (got - want).norm() < 0.05 * (base - want).norm()
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


def sampled(model, chat, temperature=1.0, draws=DRAWS):
    engine = engine_of("transformers", chat, temperature)
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
def test_the_students_own_trajectories_pass_and_those_of_stale_weights_do_not(chat, capsys, dtype):
    model = make_model().to(dtype)
    drawn = sampled(model, chat, 0.7)
    assert 0 <= logprob_gap(model, chat, 0.7, *drawn) <= ROUNDINGS * torch.finfo(dtype).eps + 1e-5
    assert capsys.readouterr().err == ""
    if dtype == torch.float32:
        assert 2e-4 < logprob_gap(moved(model, 1e-2), chat, 0.7, *drawn) < ANOTHER_MODEL
        assert "warning: rollout engine and trainer log-probs differ" in capsys.readouterr().err
    for student, assumed in ((moved(model, 0.5), 0.7), (model, 0.35)):
        with pytest.raises(UserError, match=r"they did not arrive.* at another temperature"):
            logprob_gap(student, chat, assumed, *drawn)


@pytest.mark.parametrize(("values", "said"), [(lambda ids: None, r"sample\(draws, logprobs=True\)"),
                                              (lambda ids: [float("nan")] * len(ids), "differ by nan nats")])
def test_values_that_are_missing_or_no_numbers_are_caught(chat, values, said):
    model = make_model()
    draws, (first, *rest) = sampled(model, chat)
    with pytest.raises(UserError, match=said):
        logprob_gap(model, chat, 1.0, draws, [Trajectory(first.ids, values(first.ids)), *rest])
    assert logprob_gap(model, chat, 1.0, draws[:1], [Trajectory([], [])]) is None
    with pytest.raises(ValueError, match="2 token ids with 1 log-probabilities"):
        Trajectory([1, 2], [-0.5])


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda drawn: drawn[1:], "returned [0-9]+ trajectories for [0-9]+ draws"),
    (lambda drawn: [Trajectory([5] * 9, [-1.0] * 9), *drawn[1:]], "of 9 tokens: give it the 8 of --max_")])
def test_trajectories_that_are_missing_or_too_long_are_refused(tmp_path, chat, spoil, said):
    engine = engine_of("transformers", chat)
    sample = engine.sample
    engine.sample = lambda draws, logprobs=False: spoil(sample(draws, logprobs))
    with pytest.raises(UserError, match=said):
        run(tmp_path / "run", chat, rollout_engine=engine)


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
