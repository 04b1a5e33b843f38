"""The engine against `transformers serve` on the loopback, where its packages are installed.

    pip install fastapi uvicorn
"""

import contextlib
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

for name in ("fastapi", "uvicorn"):
    pytest.importorskip(name, reason="transformers serve needs it: pip install fastapi uvicorn")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """MODEL@URL of the tiny model behind a real server; it takes seconds to start."""
    folder = tmp_path_factory.mktemp("served") / "tiny-model"
    make_model(attn_implementation="sdpa").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = shutil.which("transformers", path=str(Path(sys.executable).parent)) or "transformers"
    log = folder.parent / "server.log"
    with log.open("w") as file, subprocess.Popen(
            [command, "serve", str(folder), "--port", url.rpartition(":")[2], "--device", "cpu"],
            stdout=file, stderr=subprocess.STDOUT) as server:
        try:
            until = time.monotonic() + 120
            while not answers(f"{url}/health"):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.2)
            yield f"{folder}@{url}"
        finally:
            server.kill()


def answers(url):
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(url, timeout=5).status == 200


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
