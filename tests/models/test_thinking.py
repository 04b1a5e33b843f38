"""Replies without thoughts and control marks, in the forms of many model families."""

import time

import pytest
from tiny import make_model, make_tokenizer

from raft_fast.engines.hf import HFEngine
from raft_fast.models.chat import Chat
from raft_fast.models.thinking import marks, strip_thinking

HARMONY = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>yes<|return|>"
CLOSED = [
    "<think>\nhm\n</think>\n\nyes", "<thinking>hm</thinking>yes", "<reasoning>hm</reasoning>yes",
    "<reason>hm</reason>yes", "<seed:think>hm</seed:think>yes", "[THINK]hm[/THINK]yes",
    "\u25c1think\u25b7hm\u25c1/think\u25b7yes",
    "<|begin_of_thought|>hm<|end_of_thought|>\n<|begin_of_solution|>yes<|end_of_solution|>",
    "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>yes<|END_RESPONSE|>",
    "<unused94>thought\nhm<unused95>yes",
    "<|channel>thought\nhm<channel|>yes<turn|>", HARMONY, "<|start|>assistant" + HARMONY,
    "analysisWe need to think.assistantfinalyes", "<think>a<think>b</think>c</think>yes",
    "<|im_start|>assistant\n<think>\n\n</think>\n\nyes<|im_end|>", "<think>hm</think>\n<answer>yes</answer>",
    "Well. <think>hm</think>", "<|inner_prefix|>hm<|inner_suffix|>yes",
]


@pytest.mark.parametrize("reply", CLOSED)
def test_a_thought_is_no_part_of_the_answer(reply):
    assert strip_thinking(reply) in ("yes", "Well.")


@pytest.mark.parametrize("reply", [
    "hm</think>yes", "hm</seed:think>yes", "hm[/THINK]yes", "hm\u25c1/think\u25b7yes",
    "hm<|END_THINKING|>yes",
    HARMONY.split("<|message|>", 1)[1], "I see the <think> tag.\n</think>\n\nyes"])
def test_a_thought_may_have_been_opened_by_the_prompt(reply):
    assert strip_thinking(reply) == "yes"


@pytest.mark.parametrize("reply", [
    "<think>hm", "<seed:think>hm", "[THINK]hm", "\u25c1think\u25b7hm", "<|START_THINKING|>hm",
    "<unused94>thought\nhm",
    HARMONY.split("<|end|>")[0], "analysisWe need to", "<|assistant|><think>hm"])
def test_a_thought_that_does_not_end_leaves_no_answer(reply):
    assert strip_thinking(reply) == ""


@pytest.mark.parametrize("mark", [
    "<|im_end|>", "<end_of_turn>", "<|eot_id|>", "</s>", "<|endoftext|>", "<|return|>", " [/INST]",
    "<|assistant|>",
    "[e~[", "<\uff5cend\u2581of\u2581sentence\uff5c>", "[|endofturn|]", "<eos><pad><pad>",
    "<|im_end|>\n<|im_start|>assistant"])
def test_marks_at_the_ends_are_left_out(mark):
    assert strip_thinking(f"yes{mark}\n") == "yes"
    assert strip_thinking("<|start_header_id|>assistant<|end_header_id|>\n\nyes" + mark) == "yes"


@pytest.mark.parametrize("text", [
    "Use the <think> tag to reason.", "Put it between <think> and </think>, then answer.",
    "Close with `</think>`.",
    "a <| b |> c", "The mark <|im_end|> ends a turn.",
    "For example:\n```\n<think>\nx\n</think>\ny\n```\nDone.",
    "analysis of the soil shows 5 m", "analysisResult = 3", "Dear Sir,\n<reason>\nRegards",
    "<answer>yes</answer>"])
def test_an_answer_that_speaks_of_marks_stays_whole(text):
    assert strip_thinking(text) == text


def test_marks_are_those_of_any_model_and_no_ordinary_brackets():
    assert marks("<|x|> </think> [INST] <start_of_turn>") == {"<|x|>", "<think>", "[inst]", "<start_of_turn>"}
    assert marks("<p>a</p> [1] a <| b |> c [note] List<int> x<y|z>w") == set()


def test_special_tokens_tell_a_thought_in_this_process_too():
    """Decoding leaves them out, and what they enclosed would run into the answer."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<|box|>"]})
    model = make_model()
    model.resize_token_embeddings(len(tokenizer))
    engine = HFEngine(model, Chat(tokenizer), "m")
    ids = tokenizer("[THINK]hm[/THINK]it is <|box|>yes<|box|>, I say<eos>",
    add_special_tokens=False).input_ids
    assert engine._read(ids, 1, 0.0).text == "it is yes, I say"
    assert engine._read(ids[:3], 1, 0.0).text == ""


@pytest.mark.parametrize("unit", [
    "<think>", "</think>", "x <think> ", "<|a|>", "</s> ", "<", "[", "`", "\n", "a_", "final"])
def test_a_long_reply_is_stripped_in_time_that_grows_with_it(unit):
    text = "x" + unit * (200_000 // len(unit))
    start = time.process_time()
    strip_thinking(text), marks(text)
    assert time.process_time() - start < 2
