"""Continuous batching on the CPU with a small cache: greedy replies are those of plain batches."""

import pytest
from tiny import make_model
from transformers import ContinuousBatchingConfig

from raft_fast.engines import Sampling
from raft_fast.engines.continuous import ContinuousEngine
from raft_fast.engines.hf import HFEngine
from raft_fast.models.architecture import PACKED

ASKED = [[{"role": "user", "content": text}] for text in ("a?", "What is this, then?", "Why so?")]


@pytest.fixture
def engine(model, chat):
    return ContinuousEngine(model, chat, "tiny", settings=ContinuousBatchingConfig(
        num_blocks=8, page_size=32, max_batch_tokens=64, use_cuda_graph=False))


def test_greedy_replies_are_those_of_batches(engine, model, chat):
    batched = dict(HFEngine(make_model(), chat, "tiny").generate(ASKED, Sampling(8)))
    own, attention = model.generation_config, model.config._attn_implementation
    for index, reply in engine.generate(iter(ASKED), Sampling(8)):
        other = batched[index]
        assert (reply.text, reply.finish_reason, reply.error) == (other.text, other.finish_reason, None)
        assert (reply.prompt_tokens, reply.completion_tokens) == (
            other.prompt_tokens, other.completion_tokens)
    assert model.generation_config is own
    assert model.config._attn_implementation == attention == PACKED
    assert engine.identity != "tiny"


def test_samples_are_drawn(engine):
    """Replies to one question many times over are not all the same."""
    replies = dict(engine.generate([ASKED[0]] * 6, Sampling(8, 1.0)))
    assert len({reply.text for reply in replies.values()}) > 1
    assert [reply.error for reply in replies.values()] == [None] * 6
