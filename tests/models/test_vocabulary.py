"""Ids that nothing stands for (rows that pad a model's vocabulary, holes in a tokenizer's, what a teacher has
no row for) are never sampled nor taught; a tokenizer with more tokens than rows is refused."""

import json
import re
from dataclasses import replace

import pytest
import torch
from tiny import make_model, make_rows, make_tokenizer
from tokenizers import AddedToken, models
from transformers import AutoTokenizer

from raft_fast.distillation import Callback, Draw, Teacher, train
from raft_fast.distillation.rollouts import BatchedRollouts, logprob_gap
from raft_fast.engines import Sampling
from raft_fast.engines.load import load_engine
from raft_fast.models.architecture import head_of
from raft_fast.models.chat import Chat, View
from raft_fast.models.load import load_chat
from raft_fast.models.packing import completion_hidden
from raft_fast.recipes import terms_of
from raft_fast.run.errors import UserError
from raft_fast.run.options import ModelOptions, TrainOptions

ROWS, HOLE = 300, 100
DRAWS = [Draw([1, 2, 3 + row], row) for row in range(6)]
OPTIONS = TrainOptions(per_device_train_batch_size=3, num_train_epochs=1, teacher_top_k=16,
                       max_completion_length=8, learning_rate=1e-3)


def padded(seed=0, rows=ROWS, lost=(HOLE, *range(261, ROWS)), **overrides):
    """A model whose rows for ids that nothing stands for are by far the most likely ones."""
    model = make_model(seed, vocab_size=rows, **overrides)
    with torch.no_grad():
        model.lm_head.weight[[token for token in lost if token < rows]] *= 8
    return model


@pytest.fixture
def chat():
    """Of a tokenizer with ids 0 to 260, but for HOLE."""
    tokenizer = make_tokenizer()
    vocab = {token: place + (place >= HOLE) for token, place in tokenizer.get_vocab().items()}
    tokenizer.backend_tokenizer.model = models.BPE(vocab=vocab, merges=[])
    return Chat(tokenizer, make_model().generation_config, "tiny")


def never(ids):
    return HOLE not in ids and max(ids) <= 260


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_ids_that_the_tokenizer_lacks_are_never_drawn(chat, temperature):
    """And engine and trainer agree about how likely the others are."""
    sampling, model = Sampling(8, temperature), padded()
    engine = BatchedRollouts(chat, sampling)
    engine.sync(model)
    drawn = engine.sample(DRAWS, logprobs=True)
    assert all(never(one.ids) for one in drawn)
    assert logprob_gap(model, chat, temperature, DRAWS, drawn) < 1e-4


def test_what_an_engine_leaves_out_is_what_the_tokenizer_lacks(chat):
    whole = Chat(make_tokenizer(), make_model().generation_config, "tiny")
    assert chat.lacking(ROWS) == [HOLE, *range(261, ROWS)]
    assert whole.lacking(260) == []


@pytest.mark.parametrize("head", [{}, {"softcap": 20.0}])
def test_the_teacher_names_the_best_of_the_ids_that_there_are(chat, head, monkeypatch):
    model, views = padded(1), [View([5, 6, 7], [8, 9, 2]), View([4], [30, 31])]
    changed = replace(head_of(model), **head)
    monkeypatch.setattr("raft_fast.distillation.teacher.head_of", lambda _: changed)
    found = Teacher(model, chat, 16, 1.5, student_vocab=280).targets(views)
    with torch.no_grad():
        logits = changed.logits(completion_hidden(model, views, 0)).double() / 1.5
    logits[:, [HOLE, *range(261, ROWS)]] = -torch.inf
    best = logits.topk(16)
    assert torch.equal(found.ids, best.indices)
    assert torch.allclose(found.logprobs.double().log_softmax(-1), best.values.log_softmax(-1), atol=1e-5)
    whole = Teacher(model, chat, 290, 1.5)  # more than there are tokens, no more than there are rows
    assert whole.k == 260
    assert whole.targets(views).logprobs.isfinite().all()
    with pytest.raises(UserError, match="--teacher_top_k 301: the vocabulary has only 300 tokens"):
        Teacher(model, chat, 301, 1.5)


def test_ids_that_the_teacher_lacks_are_never_sampled_nor_taught(tmp_path):
    """Student and tokenizer have 300, a teacher 270: what is above stands for nothing to it."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"<{place}>" for place in range(40)])
    chat = Chat(tokenizer, make_model().generation_config, "tiny")
    student, drawn, listener = padded(lost=range(270, ROWS)), [], Callback()
    listener.on_step = lambda state: drawn.extend(token for ids in state.trajectories for token in ids)
    teacher = Teacher(make_model(1, vocab_size=270), chat, 16, 1.5, student_vocab=ROWS)
    train(student, teacher, chat, make_rows(3), terms_of("raft", OPTIONS), OPTIONS, 0, tmp_path, [listener])
    assert 0 < max(drawn) < 270
    assert teacher.targets([View([5, 6], [7, 8])]).ids.max() < 270


@pytest.mark.parametrize(("rows", "added", "said"), [
    (260, ["<new>"], "'<new>' at id 260, and its embeddings only 260 rows"),
    (260, [AddedToken("<new>", special=True), AddedToken("<more>", special=True)], "'<new>' at id 260"),
    (250, [], "at id 250, and its embeddings only 250 rows")])
def test_a_tokenizer_with_more_tokens_than_rows_is_refused(tmp_path, rows, added, said):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(added)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=said):
        load_chat(tmp_path, make_model(vocab_size=rows))
    load_chat(tmp_path, make_model(vocab_size=rows + 11))


def test_a_mark_of_another_modality_needs_no_row(tmp_path):
    """As in text-only models whose family also sees images (Gemma 3 1B: <image_soft_token>)."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<image>", special=True)])
    tokenizer.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tmp_path, image_token="<image>").save_pretrained(tmp_path)
    assert max(load_chat(tmp_path, make_model()).ids) == 260


GENERATION, TOKENIZER = "generation_config.json", "tokenizer.json"


@pytest.mark.parametrize(("file", "held", "said"), [
    *((GENERATION, {"eos_token_id": given}, rf"{GENERATION}: eos_token_id {re.escape(json.dumps(given))}: ")
      for given in ("</s>", [2, 99999], -1, 2.5, True, [[2]], 260)),
    *((GENERATION, text, f"{GENERATION} cannot be read") for text in ("[]", "{")),
    *((TOKENIZER, text, "tokenizer cannot be loaded: ") for text in ("[]", "{")),
    ("config.json", {"dtype": "foo"}, "cannot be loaded: "),
    ("tokenizer_config.json", {"added_tokens_decoder": 3}, "tokenizer cannot be loaded: ")], ids=str)
def test_a_file_of_the_wrong_content_is_one_line(model_folder, file, held, said):
    """`held` is all of the file, or keys of it."""
    text = held if isinstance(held, str) else json.dumps(
        {**json.loads((model_folder / file).read_text()), **held})
    (model_folder / file).write_text(text)
    with pytest.raises(UserError, match=f"--model {model_folder}: .*{said}"):
        load_engine("self", ModelOptions(model=str(model_folder), device="cpu"))
