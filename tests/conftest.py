"""Fixtures of a tiny model; see tiny.py."""

import os
import signal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see raft_fast.run.errors.entry
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it; tests send it

import pytest
from tiny import make_model, make_rows, make_tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from raft_fast.data.dataset import Row
from raft_fast.models.chat import Chat


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def model() -> LlamaForCausalLM:
    return make_model()


@pytest.fixture
def chat(tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM) -> Chat:
    return Chat(tokenizer, model.generation_config, "tiny")


@pytest.fixture
def rows() -> list[Row]:
    return make_rows()


@pytest.fixture
def model_folder(tmp_path, model, tokenizer):
    """The tiny model as a folder that --model takes."""
    folder = tmp_path / "tiny-model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
