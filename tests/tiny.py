"""A tiny random model and byte-level tokenizers with different chat templates; nothing is downloaded."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from raft_fast.data.dataset import Row
from raft_fast.models.attention import pack_attention

SPECIAL = ["<pad>", "<bos>", "<eos>", "<turn>"]
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<turn>system\nBe brief.<eos>\n{% endif %}"
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}")
NO_SYSTEM = (
    "<bos>{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "<turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}")
TEMPLATES = {"chatml": CHATML, "no_system": NO_SYSTEM}


def make_tokenizer(template: str | None = CHATML, pad: str = "<pad>") -> PreTrainedTokenizerFast:
    """One token a byte, after four special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>",
                                        eos_token="<eos>", pad_token=pad,
                                        additional_special_tokens=["<turn>"])
    tokenizer.chat_template = template
    return tokenizer


def make_model(seed: int = 0, **overrides: object) -> LlamaForCausalLM:
    """Two layers, 32 wide, untied head; float32 unless cast."""
    torch.manual_seed(seed)
    settings = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64,
                "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1,
                "eos_token_id": 2, "initializer_range": 0.3, **overrides}
    model = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    pack_attention(model)  # as load_model does
    return model


def make_rows(count: int = 6) -> list[Row]:
    """Short questions and answers in three categories."""
    return [Row(f"r{i}", [{"role": "user", "content": f"What is {i}?"}], f"It is {i}.",
                gold=f"It is {i}.", category="abc"[i % 3]) for i in range(count)]
