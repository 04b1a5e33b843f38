"""A folder as a user has it, with a tiny model, a tiny encoder and rows; options that make a run small."""

import json
from pathlib import Path

from tiny import make_model, make_tokenizer
from transformers import BertConfig, BertModel

from raft_fast import RAFTConfig

RUN = ["--num_train_epochs", "1", "--per_device_train_batch_size", "4", "--teacher_top_k", "16",
       "--max_completion_length", "8", "--rewrite_max_new_tokens", "24", "--fusion_rounds", "2",
       "--tau", "-1", "--eval_max_new_tokens", "8", "--general_prompts", "-1", "--heldout", "0.3",
       "--precision", "float32"]
OPTIONS = {word.removeprefix("--"): value for word, value in zip(RUN[::2], RUN[1::2], strict=True)}


def make_home(home: Path) -> Path:
    """A model, an encoder and twelve raw rows, one more of them bad."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    make_model().save_pretrained(home / "model")
    make_tokenizer().save_pretrained(home / "model")
    BertModel(BertConfig(vocab_size=260, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=32)).save_pretrained(home / "bert")
    make_tokenizer(None).save_pretrained(home / "bert")
    transformer = Transformer(str(home / "bert"), max_seq_length=64)
    SentenceTransformer(modules=[transformer, Pooling(32)]).save(str(home / "encoder"))
    rows = [{"id": f"r{i}", "question": f"What is {i}?", "answer": f"It is {i}, says § {i}.",
             "category": "ab"[i % 2]} for i in range(12)]
    lines = [json.dumps(row) for row in rows] + ['{"question": "x"}']
    (home / "rows.jsonl").write_text("\n".join(lines))
    return home


def config(output_dir=None, **options):
    """Of a trainer in that folder, whose run has no stage 1."""
    return RAFTConfig(output_dir, **{**OPTIONS, "encoder": "encoder", "data_source": "gold", **options})


def rows_in_memory():
    return [{"Question": f"What is {i}?", "Answer": f"It is {i}.", "category": "ab"[i % 2]} for i in range(8)]
