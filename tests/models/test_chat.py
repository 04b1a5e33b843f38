"""Teacher and student views of one completion align token by token, whatever the template."""

import pytest
from tiny import CHATML, NO_SYSTEM, TEMPLATES, make_tokenizer
from transformers import GenerationConfig

from raft_fast.models.chat import REFERENCE_PROMPT, Chat, View
from raft_fast.models.packing import pad

USER = [{"role": "user", "content": "How high?"}]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("pad_token", ["<pad>", "<eos>"])
@pytest.mark.parametrize("completion", [[], [2], [70, 71, 2], [70, 71, 72]],
                         ids=["empty", "eos only", "ended", "truncated"])
def test_views_hold_the_same_completion(template, pad_token, completion):
    chat = Chat(make_tokenizer(template, pad_token))
    student = View(chat.student_prompt(USER), completion)
    teacher = View(chat.teacher_prompt(USER, "Three metres."), completion)
    batch = pad([student, teacher], chat.pad_id)
    width = batch.inputs["input_ids"].shape[1]
    rows, columns = batch.predicts // width, batch.predicts % width
    for row, view in enumerate((student, teacher)):
        at = columns[rows == row]
        assert batch.inputs["input_ids"][row, at + 1].tolist() == completion
        assert batch.inputs["attention_mask"][row].sum() == len(view.prompt) + len(completion)


def test_teacher_prompt_is_eq_7_behind_system_and_history(chat):
    messages = [{"role": "system", "content": "Be kind."}, *USER,
                {"role": "assistant", "content": "Why?"}, {"role": "user", "content": "For a fence."}]
    text = chat.tokenizer.decode(chat.teacher_prompt(messages, "Use {question} and {x}."))
    assert text == (
        "<turn>system\nBe kind.<eos>\n<turn>user\nHow high?<eos>\n<turn>assistant\nWhy?<eos>\n<turn>user\n"
        "Background reference knowledge: Use {question} and {x}.\n"
        "Answer the question based on the reference knowledge: For a fence.<eos>\n<turn>assistant\n")
    assert REFERENCE_PROMPT.index("{answer}") < REFERENCE_PROMPT.index("{question}")


def test_the_templates_own_end_of_turn_counts_as_eos_and_those_of_the_generation_config():
    template = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}<turn>{% endfor %}"
    chat = Chat(make_tokenizer(template))
    assert (chat.end_of_turn, chat.eos_ids) == (3, {2, 3})
    assert Chat(make_tokenizer(CHATML), GenerationConfig(eos_token_id=[2, 3])).eos_ids == {2, 3}
    wants = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('system first') }}{% endif %}"
    assert Chat(make_tokenizer(wants + CHATML)).end_of_turn == 2


def test_text_before_the_end_of_turn_is_trained_and_not_shown():
    chat = Chat(make_tokenizer(CHATML.replace("{{ m['content'] }}<eos>", "{{ m['content'] }}[/A]<eos>")))
    completion = chat.sft_view(USER, "Three metres.").completion
    assert chat.decode_all(completion) == "Three metres.[/A]<eos>"
    assert chat.decode(completion) == "Three metres."


def test_no_doubled_bos():
    chat = Chat(make_tokenizer(NO_SYSTEM))
    for ids in (chat.sft_view(USER, "Yes.").ids, chat.teacher_prompt(USER, "Yes.")):
        assert ids.count(chat.tokenizer.bos_token_id) == 1


def test_the_templates_own_switches_reach_every_view(tokenizer):
    tokenizer.chat_template += "{% if enable_thinking is false %}!{% endif %}"
    plain, quiet = Chat(tokenizer), Chat(tokenizer, template_kwargs={"enable_thinking": False})
    mark = tokenizer("!", add_special_tokens=False).input_ids
    assert quiet.student_prompt(USER) == plain.student_prompt(USER) + mark
    assert quiet.teacher_prompt(USER, "So.")[-1:] == mark
    assert quiet.sft_view(USER, "So.").prompt == quiet.student_prompt(USER)
