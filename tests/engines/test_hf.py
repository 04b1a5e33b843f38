"""The in-process engine: exact sampling, ends, scores and likelihoods, independent of the batch."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from tiny import make_model, make_tokenizer
from transformers import GenerationConfig

from raft_fast.engines import Sampling
from raft_fast.engines.generation import Sampler, generate_ids
from raft_fast.engines.hf import HFEngine
from raft_fast.models.chat import Chat

ASKED = [[{"role": "user", "content": text}] for text in ("a?", "What is this, then?", "Why so?")]


@pytest.fixture
def engine(model, chat):
    return HFEngine(model, chat, "tiny", batch_size=2)


def test_a_sampler_draws_from_the_softmax():
    """20,000 draws: every frequency within five standard deviations of softmax(logits / T), and every
    recorded log-probability that of what was drawn."""
    logits, temperature, draws = torch.tensor([2.0, 1.0, 0.0, -1.0]), 1.5, 20_000
    sampler = Sampler(temperature, [7], draws, torch.device("cpu"), record=True)
    chosen = torch.stack([sampler(None, logits[None])[0].argmax() for _ in range(draws)])
    expected = (logits / temperature).softmax(-1)
    recorded = torch.cat(sampler.logprobs)
    torch.testing.assert_close(recorded, expected.log()[chosen], rtol=0, atol=1e-6)
    found = torch.bincount(chosen, minlength=4) / draws
    assert ((found - expected).abs() < 5 * (expected * (1 - expected) / draws).sqrt()).all()


def test_rare_tokens_of_a_large_vocabulary_are_drawn_as_often_as_they_should():
    """Half of the mass in one token, half evenly in 2^22: each adds less than float32 resolves beside 0.5."""
    rare = 1 << 22
    logits = torch.zeros(1, rare + 1)
    logits[0, 0] = math.log(rare)
    sampler, probabilities = Sampler(1.0, [7], 200, torch.device("cpu")), logits.softmax(1)
    chosen = torch.stack([sampler.draw(probabilities) for _ in range(200)]).flatten()
    tail = chosen[chosen > 0]
    assert abs(len(tail) - 100) < 5 * 50 ** 0.5
    assert abs(float(tail.double().mean()) / rare - 0.5) < 5 * (1 / 12 / len(tail)) ** 0.5


def test_a_token_that_cannot_be_drawn_is_not():
    """Not even by the smallest and the largest number."""
    sampler = Sampler(1.0, [0], 2, torch.device("cpu"))
    sampler.uniform = iter(torch.tensor([[[0.0]], [[1 - 2.0**-53]]], dtype=torch.float64))
    scores = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]])
    assert [int(sampler(None, scores).argmax()) for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_reply_does_not_depend_on_its_batch_nor_on_other_threads(engine, temperature):
    """And the model's own settings come back."""
    own, sampling = engine.model.generation_config, Sampling(12, temperature, seed=3)
    together = dict(engine.generate(ASKED, sampling))
    assert [dict(engine.generate([messages], sampling))[0] for messages in ASKED] == list(
        map(together.get, range(3)))
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda _: dict(engine.generate(ASKED, sampling)), range(3))) == [together] * 3
    other = dict(engine.generate(ASKED, replace(sampling, seed=4)))
    same = [other[index].text == together[index].text for index in range(3)]
    assert all(same) if temperature == 0 else not all(same)
    assert engine.model.generation_config is own


@pytest.mark.parametrize("pad", ["<pad>", "<eos>"])
def test_generation_stops_at_the_second_eos_too(model, pad):
    """A head that always says token 3, which only the generation config lists."""
    chat = Chat(make_tokenizer(pad=pad), GenerationConfig(eos_token_id=[2, 3]))
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[3] = 100 * model.model.norm.weight
        model.model.norm.weight.abs_()
    prompts = [chat.student_prompt(messages) for messages in ASKED]
    drawn = generate_ids(model, chat, prompts, 6, 0.0, [0, 0, 0])
    assert all(3 not in ids[:-1] and len(ids) <= 6 for ids in drawn)
    assert any(ids[-1] == 3 for ids in drawn)


def test_nothing_of_the_models_own_defaults_leaks_in(model, chat):
    prompts = [chat.student_prompt(ASKED[0])]
    plain = generate_ids(model, chat, prompts, 8, 0.0, [0])
    model.generation_config = GenerationConfig(suppress_tokens=sorted(set(plain[0])), min_new_tokens=8,
                                               repetition_penalty=9.0, eos_token_id=2)
    own = model.generation_config
    assert generate_ids(model, chat, prompts, 8, 0.0, [0]) == plain
    assert model.generation_config is own


def test_the_score_is_the_expected_digit(engine, chat):
    digits = [chat.tokenizer(str(digit)).input_ids[-1] for digit in range(10)]
    for index, reply in engine.score(ASKED):
        ids = torch.tensor([chat.student_prompt(ASKED[index])])
        shares = engine.model(ids).logits[0, -1, digits].softmax(-1)
        expected = ((shares * torch.arange(10)).sum() / 9).item()
        assert reply.score == pytest.approx(expected, rel=1e-5)


def test_the_likelihood_is_that_of_dense_logits(engine, chat):
    answers = ["Yes.", "It is a wall.", "No"]
    for index, (nll, tokens) in engine.nll(ASKED, answers):
        view = chat.sft_view(ASKED[index], answers[index])
        logits = make_model().double()(torch.tensor([view.ids])).logits[0, len(view.prompt) - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(view.completion), reduction="sum")
        assert tokens == len(view.completion)
        assert nll == pytest.approx(expected.item(), rel=1e-5)


def test_a_reply_keeps_the_indentation_of_its_code(model, chat, monkeypatch):
    for said, text in (("\n\n    return x\n", "    return x"), (" Yes. ", "Yes."),
                       ("<think>\nhm\n</think>\n\n\tgo()", "\tgo()")):
        ids = [*chat.tokenizer(said, add_special_tokens=False).input_ids, chat.end_of_turn]
        assert HFEngine(model, chat, "tiny")._read(ids, 1).text == text
