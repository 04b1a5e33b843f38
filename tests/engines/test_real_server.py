"""The engine against `transformers serve` on the loopback, where its packages are installed.

    pip install fastapi uvicorn
"""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from tiny import make_model, make_tokenizer

from raft_fast.engines import Sampling
from raft_fast.engines.openai import OpenAIEngine
from raft_fast.run.options import EngineOptions

pytest.importorskip("fastapi", reason="transformers serve needs fastapi: pip install fastapi uvicorn")
pytest.importorskip("uvicorn", reason="transformers serve needs uvicorn: pip install fastapi uvicorn")
STARTUP_SECONDS = 120


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """MODEL@URL of the tiny model behind a real server; it takes seconds to start."""
    folder = tmp_path_factory.mktemp("served")
    make_model(attn_implementation="sdpa").save_pretrained(folder / "tiny-model")
    make_tokenizer().save_pretrained(folder / "tiny-model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = shutil.which("transformers", path=str(Path(sys.executable).parent)) or "transformers"
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [command, "serve", str(folder / "tiny-model"), "--host", "127.0.0.1", "--port", str(port),
             "--device", "cpu"], stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, folder / "server.log")
        yield f"{folder / 'tiny-model'}@http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def wait_for(url, server, log):
    end = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(url, timeout=5).read()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_replies_come_from_a_real_server(served, chat):
    """As many tokens as asked for at most, prompts counted as our own tokenizer counts them."""
    engine = OpenAIEngine.connect(served, EngineOptions(requests_in_flight=2))
    asked = [[{"role": "user", "content": text}] for text in ("a?", "What is this, then?", "Why so?")]
    replies = dict(engine.generate(asked, Sampling(6, 1.0, seed=1)))
    assert sorted(replies) == [0, 1, 2]
    for index, reply in replies.items():
        assert reply.error is None
        assert reply.prompt_tokens == len(chat.student_prompt(asked[index]))
        assert 1 <= reply.completion_tokens <= 6


def test_a_judge_that_cannot_judge_is_an_error_of_its_row(served):
    engine = OpenAIEngine.connect(served, EngineOptions(extra_body={"max_tokens": 4}))
    (_, reply), = engine.score([[{"role": "user", "content": "Grade this."}]])
    assert (reply.text, reply.completion_tokens > 0) == ("", True)
    assert "no score in the reply" in reply.error
