"""The in-process engine: exact sampling, ends, scores and likelihoods, independent of the batch."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from tiny import make_model, make_tokenizer
from transformers import GenerationConfig

from raft_fast.engines import Sampling
from raft_fast.engines.generation import BLOCK, draw, draw_ids
from raft_fast.engines.hf import HFEngine
from raft_fast.models.chat import Chat

ASKED = [[{"role": "user", "content": text}] for text in ("a?", "What is this, then?", "Why so?")]


@pytest.fixture
def engine(model, chat):
    return HFEngine(model, chat, "tiny", batch_size=2)


def uniform(count):
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def test_a_draw_is_from_the_softmax():
    """20,000 draws: every frequency within five standard deviations of softmax(logits / T), and every
    recorded log-probability that of what was drawn."""
    logits, temperature, draws = torch.tensor([2.0, 1.0, 0.0, -1.0]), 1.5, 20_000
    chosen, logprobs = draw(logits.expand(draws, 4), temperature, uniform(draws))
    expected = (logits / temperature).softmax(-1)
    torch.testing.assert_close(logprobs.float(), expected.log()[chosen], rtol=0, atol=1e-6)
    found = torch.bincount(chosen, minlength=4) / draws
    assert ((found - expected).abs() < 5 * (expected * (1 - expected) / draws).sqrt()).all()


def test_rare_tokens_of_a_large_vocabulary_are_drawn_as_often_as_they_should():
    """Half of the mass in one token, half evenly in 2^22: each adds less than float32 resolves beside 0.5."""
    rare = 1 << 22
    logits = torch.zeros(1, rare + 1)
    logits[0, 0] = math.log(rare)
    chosen = torch.cat([draw(logits, 1.0, number[None])[0] for number in uniform(200)])
    tail = chosen[chosen > 0]
    assert abs(len(tail) - 100) < 5 * 50 ** 0.5
    assert abs(float(tail.double().mean()) / rare - 0.5) < 5 * (1 / 12 / len(tail)) ** 0.5


def test_a_token_that_cannot_be_drawn_is_not():
    """Not even by the smallest and the largest number."""
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    for before, between, after in ((1, 0, 1), (BLOCK, 0, BLOCK), (3 * BLOCK + 5, 2 * BLOCK + 7, 900)):
        scores = torch.full((2, before + after + between + 2), -torch.inf)
        scores[:, [before, before + 1 + between]] = torch.tensor([1.0, 2.0])
        assert draw(scores, 1.0, ends)[0].tolist() == [before, before + 1 + between]


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
    drawn = [one.ids for one in draw_ids(model, chat, prompts, 6, 0.0, [0, 0, 0], 3, 999)]
    assert all(3 not in ids[:-1] and len(ids) <= 6 for ids in drawn)
    assert any(ids[-1] == 3 for ids in drawn)


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
