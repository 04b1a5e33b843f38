"""Replies without thoughts and control marks, in the forms of many model families."""

import time

import pytest
from tiny import make_model, make_tokenizer

from raft_fast.engines.hf import HFEngine
from raft_fast.models.chat import Chat
from raft_fast.models.thinking import marks, strip_thinking

HARMONY = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>yes<|return|>"
PAIRS = [("<think>", "</think>"), ("<seed:think>", "</seed:think>"), ("[THINK]", "[/THINK]"),
         ("\u25c1think\u25b7", "\u25c1/think\u25b7"), ("<|START_THINKING|>", "<|END_THINKING|>"),
         ("<|begin_of_thought|>", "<|end_of_thought|>"), ("<unused94>thought\n", "<unused95>"),
         ("<|channel>thought\n", "<channel|>"), ("<|inner_prefix|>", "<|inner_suffix|>"),
         ("<reasoning>", "</reasoning>"), ("<reason>", "</reason>"), ("<thinking>", "</thinking>")]


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_a_thought_is_no_part_of_the_answer_whether_it_is_opened_closed_or_both(opening, closing):
    assert strip_thinking(f"{opening}hm{closing}\n\nyes") == "yes"
    assert strip_thinking(f"Well. {opening}hm{closing}") == "Well."
    assert strip_thinking(f"hm{closing}yes") == "yes"  # opened by the prompt
    assert strip_thinking(f"<|assistant|>{opening}hm") == ""


@pytest.mark.parametrize(("reply", "answer"), [
    *((before + HARMONY, "yes") for before in ("", "<|start|>assistant")),
    (HARMONY.split("<|message|>", 1)[1], "yes"), (HARMONY.split("<|end|>")[0], ""),
    ("analysisWe need to think.assistantfinalyes", "yes"), ("analysisWe need to", ""),
    ("<think>a<think>b</think>c</think>yes", "yes"), ("<think>hm</think>\n<answer>yes</answer>", "yes"),
    ("<|im_start|>assistant\n<think>\n\n</think>\n\nyes<|im_end|>", "yes"),
    ("I see the <think> tag.\n</think>\n\nyes", "yes"),
    ("<|begin_of_thought|>hm<|end_of_thought|>\n<|begin_of_solution|>yes<|end_of_solution|>", "yes"),
    ("<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>yes<|END_RESPONSE|>", "yes")])
def test_the_answer_is_what_follows_the_last_thought(reply, answer):
    assert strip_thinking(reply) == answer


@pytest.mark.parametrize("mark", [
    "<|im_end|>", "<end_of_turn>", "<|eot_id|>", "</s>", "<|endoftext|>", "<|return|>", " [/INST]",
    "<|assistant|>", "[e~[", "<\uff5cend\u2581of\u2581sentence\uff5c>", "[|endofturn|]", "<eos><pad><pad>",
    "<|im_end|>\n<|im_start|>assistant"])
def test_marks_at_the_ends_are_left_out(mark):
    assert strip_thinking(f"yes{mark}\n") == "yes"
    assert strip_thinking("<|start_header_id|>assistant<|end_header_id|>\n\nyes" + mark) == "yes"


@pytest.mark.parametrize("text", [
    "Use the <think> tag to reason.", "Put it between <think> and </think>, then answer.",
    "Close with `</think>`.", "a <| b |> c", "The mark <|im_end|> ends a turn.",
    "For example:\n```\n<think>\nx\n</think>\ny\n```\nDone.", "<answer>yes</answer>",
    "analysis of the soil shows 5 m", "analysisResult = 3", "Dear Sir,\n<reason>\nRegards", "user"])
def test_an_answer_that_speaks_of_marks_stays_whole(text):
    assert strip_thinking(text) == text
    assert strip_thinking(f"{text}</s>") == text


def test_marks_are_those_of_any_model_and_no_ordinary_brackets():
    assert marks("<|x|> </think> [INST] <start_of_turn>") == {"<|x|>", "<think>", "[inst]", "<start_of_turn>"}
    assert marks("<p>a</p> [1] a <| b |> c [note] List<int> x<y|z>w") == set()


def test_special_tokens_tell_a_thought_in_this_process_too():
    """Decoding leaves them out, and what they enclosed would run into the answer."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<|box|>"]})
    engine = HFEngine(make_model(vocab_size=264), Chat(tokenizer), "m")
    ids = tokenizer("[THINK]hm[/THINK]it is <|box|>yes<|box|>, I say<eos>",
                    add_special_tokens=False).input_ids
    assert engine._read(ids, 1).text == "it is yes, I say"
    assert engine._read(ids[:3], 1).text == ""


@pytest.mark.parametrize("unit", [
    "<think>", "</think>", "x <think> ", "<|a|>", "</s> ", "<", "[", "`", "\n", "a_", "final"])
def test_a_long_reply_is_stripped_in_time_that_grows_with_it(unit):
    text = "x" + unit * (200_000 // len(unit))
    start = time.process_time()
    strip_thinking(text), marks(text)
    assert time.process_time() - start < 2
