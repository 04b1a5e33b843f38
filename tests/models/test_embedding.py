"""The encoder on a tiny model: long texts in pieces, prompts, and vectors that are never NaN."""

import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

from raft_fast.models.load import Encoder, unit

WORDS = ["a", "fence", "may", "be", "high", "or", "low", "query", "the", "house", "stands", "by", "old",
         "road", "and", "river"]
LONGEST = 12  # tokens the tiny encoder reads at once, [CLS] and [SEP] included


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    vocab = path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ":", *WORDS]))
    bert = BertModel(BertConfig(vocab_size=6 + len(WORDS), hidden_size=16, num_hidden_layers=1,
                                num_attention_heads=2, intermediate_size=32, initializer_range=1.0))
    bert.save_pretrained(path / "bert")
    BertTokenizerFast(vocab=str(vocab)).save_pretrained(path / "bert")
    parts = Transformer(str(path / "bert"), max_seq_length=LONGEST)
    model = SentenceTransformer(modules=[parts, Pooling(16)], prompts={"STS": "query : "}, device="cpu")
    model.save(str(path / "whole"))
    return path / "whole"


def test_vectors_are_what_sentence_transformers_gives_whatever_else_is_in_the_batch(folder):
    encoder, model = Encoder(folder), SentenceTransformer(str(folder), device="cpu")
    texts = [" ".join(WORDS[:n]) for n in (3, 14, 1, 9)]
    together = encoder.embed(texts)
    np.testing.assert_allclose(together, np.concatenate([encoder.embed([text]) for text in texts]), atol=1e-6)
    short = [0, 2, 3]
    expected = model.encode([texts[at] for at in short], normalize_embeddings=True)
    np.testing.assert_allclose(together[short], expected, atol=1e-6)


@pytest.mark.parametrize("joint", [" ", ""], ids=["words", "one word"])
def test_a_long_text_is_the_mean_of_its_pieces_weighted_by_their_tokens(folder, joint):
    encoder = Encoder(folder)
    first, second = WORDS[:8], WORDS[8:13]  # 12 - [CLS] - [SEP] - 2 = 8 tokens a piece
    if not joint:  # a word without end is cut where a piece is full
        first, second = [":"] * 8, [":"] * 5
    vector = encoder.embed([joint.join(first + second)])[0]
    pieces = encoder.embed([joint.join(first), joint.join(second)])
    np.testing.assert_allclose(vector, unit(8 * pieces[:1] + 5 * pieces[1:])[0], atol=1e-6)


def test_the_models_default_prompt_stands_before_every_piece(folder, tmp_path):
    prompted = SentenceTransformer(str(folder), device="cpu")
    prompted.default_prompt_name = "STS"
    prompted.save(str(tmp_path))
    plain, encoder = SentenceTransformer(str(folder), device="cpu"), Encoder(tmp_path)
    np.testing.assert_allclose(encoder.embed(["a fence"])[0],
                               unit(plain.encode(["query : a fence"]))[0], atol=1e-6)
    assert not np.allclose(encoder.embed(["a fence"]), Encoder(folder).embed(["a fence"]), atol=1e-3)
    first, second = " ".join(WORDS[:6]), " ".join(WORDS[6:9])  # 12 - [CLS] query : [SEP] - 2 = 6
    pieces = encoder.embed([first, second])
    np.testing.assert_allclose(encoder.embed([f"{first} {second}"])[0],
                               unit(6 * pieces[:1] + 3 * pieces[1:])[0], atol=1e-6)


def test_empty_texts_and_broken_models_give_zeros_not_nan(folder):
    encoder = Encoder(folder)
    assert encoder.embed([]).shape == (0, 16)
    assert np.linalg.norm(encoder.embed(["", "a fence", "  \n"]), axis=1).round(5).tolist() == [0, 1, 0]
    assert encoder.similarities([""], ["a fence"]) == [0.0]
    with torch.no_grad():
        encoder.model[0].auto_model.embeddings.word_embeddings.weight.fill_(float("nan"))
    assert not encoder.embed(["a fence"]).any()
    rows = unit(np.array([[3.0, 4.0], [0.0, 0.0], [np.inf, 1.0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0], [0, 0]])
    assert rows.dtype == np.float32


def test_a_moved_encoder_is_the_same_and_a_changed_one_is_not(folder, tmp_path):
    """Pooling counts too, which lies in a folder of its own."""
    before, moved = Encoder(folder), shutil.copytree(folder, tmp_path / "elsewhere")
    assert Encoder(moved).identity == before.identity
    pooling = moved / "1_Pooling/config.json"
    pooling.write_text(pooling.read_text().replace("mean", "max"))
    assert Encoder(moved).identity != before.identity
