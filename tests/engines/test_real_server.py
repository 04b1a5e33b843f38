"""The engine against `transformers serve` on the loopback, where its packages are installed.

    pip install fastapi uvicorn"""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import make_model, make_tokenizer

from raft_fast.engines import Sampling
from raft_fast.engines.openai import OpenAIEngine
from raft_fast.run.errors import UserError
from raft_fast.run.options import EngineOptions

for name in ("fastapi", "uvicorn"):
    pytest.importorskip(name, reason="transformers serve needs it: pip install fastapi uvicorn")


def connected(spec, server, log):
    """An engine once the server is up, which takes seconds."""
    until = time.monotonic() + 120
    while True:
        try:
            return OpenAIEngine(spec, EngineOptions(requests_in_flight=2))
        except UserError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)


def test_replies_and_scores_come_from_a_real_server(tmp_path, chat):
    """As many tokens as asked for at most, prompts counted as our own tokenizer counts them; a judge that
    cannot judge is an error of its row."""
    make_model(attn_implementation="sdpa").save_pretrained(tmp_path / "tiny")
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    log = tmp_path / "server.log"
    asked = [[{"role": "user", "content": text}] for text in ("a?", "What is this, then?", "Why so?")]
    with log.open("w") as file, subprocess.Popen(
            [Path(sys.executable).with_name("transformers"), "serve", str(tmp_path / "tiny"), "--port", port,
             "--device", "cpu"], stdout=file, stderr=subprocess.STDOUT) as server:
        try:
            engine = connected(f"{tmp_path / 'tiny'}@http://127.0.0.1:{port}", server, log)
            replies = dict(engine.generate(asked, Sampling(6, 1.0, seed=1)))
            engine.extra = {"max_tokens": 4}
            ((_, score),) = engine.score(asked[:1])
        finally:
            server.kill()
    assert sorted(replies) == [0, 1, 2]
    for index, reply in replies.items():
        assert reply.error is None
        assert reply.prompt_tokens == len(chat.student_prompt(asked[index]))
        assert 1 <= reply.completion_tokens <= 6
    assert (score.text, score.completion_tokens > 0) == ("", True)
    assert "no score in the reply" in score.error
