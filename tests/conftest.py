"""Fixtures of a tiny model; see tiny.py."""

import importlib
import os
import signal
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see raft_fast.run.errors.entry
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it; tests send it

import pytest
from home import make_home
from tiny import make_model, make_rows, make_tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from raft_fast.data.dataset import Row
from raft_fast.models.chat import Chat


@pytest.fixture(autouse=True)
def float32_on_every_processor(monkeypatch):
    """What --precision auto is elsewhere, so that a test says the same on a processor with bf16 units."""
    monkeypatch.setattr("raft_fast.models.load.cpu_has_bf16", lambda: False)


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


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder as a user has it, the same for the tests of a file; see home.py."""
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def here(home, monkeypatch):
    """`home` as the working directory, offline."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("RAFT_FAST_CACHE", str(home / "cache"))
    return home


@pytest.fixture
def command(here, monkeypatch, capsys):
    """Runs `python -m raft_fast.ENTRY` in this process; returns what it said on stderr."""
    def run(entry, *words, code=None):
        monkeypatch.setattr(sys, "argv", [entry, *words])
        stopped = None
        try:
            importlib.import_module(f"raft_fast.{entry}").main()
        except SystemExit as stop:
            stopped = stop.code
        said = capsys.readouterr().err
        assert stopped == code, said
        return said

    return run
