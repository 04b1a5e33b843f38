"""The vLLM engine against a stand-in with the signatures that were read in vLLM's source."""

import sys
import types
from dataclasses import dataclass

import pytest

from raft_fast.engines import Sampling
from raft_fast.engines.load import load_engine
from raft_fast.engines.vllm import VLLMEngine
from raft_fast.run.errors import UserError
from raft_fast.run.options import EngineOptions, ModelOptions


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int | None = 16
    seed: int | None = None
    logprobs: int | None = None


class LLM:
    """Answers with its own notes of what it was asked, or with `say` where a test sets it."""

    say = None
    ends = {"long": "length"}  # noqa: RUF012

    def __init__(self, model, *, tokenizer=None, trust_remote_code=False, revision=None, seed=None, **kwargs):
        assert not trust_remote_code
        assert not kwargs
        self.model, self.calls = model, []

    def chat(self, messages, sampling_params=None, use_tqdm=True, lora_request=None, chat_template=None,
             chat_template_content_format="auto", add_generation_prompt=True, continue_final_message=False,
             tools=None, chat_template_kwargs=None, mm_processor_kwargs=None):
        assert len(messages) == len(sampling_params)
        self.calls.append((messages, sampling_params, chat_template_kwargs))
        return [self.output(one[-1]["content"], wanted)
                for one, wanted in zip(messages, sampling_params, strict=True)]

    def output(self, text, wanted):
        said = self.say(text, wanted) if self.say else f"<think>hm</think>{text} {wanted.seed}"
        cut = self.ends.get(text, "stop")
        return types.SimpleNamespace(prompt_token_ids=[1, 2, 3], outputs=[types.SimpleNamespace(
            text=said, token_ids=(4, 5), finish_reason=cut)])


@pytest.fixture
def vllm(monkeypatch):
    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr("raft_fast.engines.vllm.READ_AHEAD", 2)


def turns(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


def test_it_is_loaded_by_its_name(vllm):
    engines = EngineOptions(extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    engine = load_engine("vllm:org/model", ModelOptions(), engines=engines)
    assert isinstance(engine, VLLMEngine)
    assert engine.identity == 'vllm:org/model {"enable_thinking": false}'
    list(engine.generate(turns("a"), Sampling()))
    assert engine.llm.model == "org/model"
    assert engine.llm.calls[0][2] == {"enable_thinking": False}


def test_replies_come_in_windows_with_seeds_of_their_own(vllm):
    engine = VLLMEngine.connect("vllm:m")
    replies = dict(engine.generate(iter(turns("a", "long", "a", "b", "c")), Sampling(9, 0.5, 3)))
    assert [len(messages) for messages, _, _ in engine.llm.calls] == [2, 2, 1]
    wanted = engine.llm.calls[0][1][0]
    assert (wanted.temperature, wanted.max_tokens) == (0.5, 9)
    assert replies[0].text == replies[2].text == f"a {wanted.seed}"  # the same whatever is beside it
    assert len({reply.text.split()[1] for reply in replies.values()}) == 4
    assert [replies[place].finish_reason for place in (0, 1)] == ["stop", "length"]
    assert (replies[0].prompt_tokens, replies[0].completion_tokens) == (3, 2)


def test_an_aborted_reply_is_not_whole(vllm, monkeypatch):
    monkeypatch.setattr(LLM, "ends", {"a": "abort", "b": "error", "c": "stop", "d": None})
    replies = dict(VLLMEngine.connect("vllm:m").generate(turns(*"abcd"), Sampling()))
    assert [replies[place].text != "" for place in range(4)] == [False, False, True, True]
    assert "finish_reason 'abort'" in replies[0].error
    assert (replies[0].completion_tokens, replies[2].error) == (2, None)


def test_scores_are_read_from_the_text_with_a_second_chance(vllm):
    engine = VLLMEngine.connect("vllm:m")
    engine.llm.say = lambda text, wanted: "9" if text == "good" or wanted.temperature > 0 else "what?"
    replies = dict(engine.score(turns("good", "odd", "good")))
    assert [replies[place].score for place in range(3)] == [1, 1, 1]
    assert [replies[place].completion_tokens for place in range(3)] == [2, 4, 2]
    engine.llm.say = lambda text, wanted: "11"
    assert "the score 11" in dict(engine.score(turns("a")))[0].error


def test_without_vllm_the_install_line_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="pip install vllm"):
        VLLMEngine.connect("vllm:m")
