"""A server on the loopback that answers chat completions, or fails in every way servers do."""

import json
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from raft_fast.engines import Sampling

SAMPLING = Sampling(seed=1)


@dataclass(frozen=True)
class Say:
    """An answer over HTTP, an error with `text` as its message unless it is 200; `extra` is of the body."""

    text: str | None = ""
    status: int = 200
    reason: str = "stop"
    headers: dict = field(default_factory=dict)
    extra: dict = field(default_factory=dict)


def hang_up(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)


def half_json(handler):
    handler.send(200, '{"id": "1", "choices": [{"index": 0, "mess')


def cut_off(handler):
    handler.send(200, '{"id": "1", "choi', promised=1000)
    hang_up(handler)


def trickle(handler):
    """No time-out between two reads ever notices."""
    handler.send(200, " ", promised=10**9)
    while True:
        time.sleep(0.005)
        handler.wfile.write(b" ")


def after(seconds, answer):
    def late(handler):
        time.sleep(seconds)
        handler.answer(answer)
    return late


def body(text, status=200, kind="application/json", **headers):
    """These bytes, whatever they are."""
    said = text if isinstance(text, str) else json.dumps(text)
    return lambda handler: handler.send(status, said, kind, headers)


def then(*answers):
    """The first answer to the first request with a text, and so on; the last one from there on."""
    return lambda request, before: answers[min(before, len(answers) - 1)]


def fails_for(text, fault, otherwise="fine"):
    """A fault for one text alone."""
    return lambda request, before: fault if request["messages"][0]["content"] == text else otherwise


def one_turn_each(texts):
    return [[{"role": "user", "content": text}] for text in texts]


def ask(engine, *texts, sampling=SAMPLING):
    return dict(engine.generate(one_turn_each(texts), sampling))


def ask_until(error, engine, texts, match=None):
    """The texts that came before the error which ends the call."""
    got = []
    with pytest.raises(error, match=match):
        got.extend(reply.text for _, reply in engine.generate(one_turn_each(texts), SAMPLING))
    return got


class Server(ThreadingHTTPServer):
    """Answers with `reply(request, how many times this text was asked before)`: a text, a Say, or a
    function of the handler. Remembers requests."""

    daemon_threads = True
    request_queue_size = 256
    listing = None  # what answers in place of the list of models

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.requests, self.seen = reply, [], Counter()
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_):
        """Clients that hang up are part of the tests."""


@contextmanager
def serving():
    """A function that starts servers; they end with the block."""
    started = []

    def start(reply=lambda request, before: "ok"):
        server = Server(reply)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        started.append(server)
        return server

    try:
        yield start
    finally:
        for server in started:
            server.shutdown()
            server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.server.listing:
            return self.server.listing(self)
        return self.send(200, json.dumps({"data": [{"id": name} for name in ("first", "m", "org/m")]}))

    def do_POST(self):
        self.request_body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = self.request_body["messages"][-1]["content"]
        with self.server.lock:
            before = self.server.seen[text]
            self.server.seen[text] += 1
            self.server.requests.append(self.request_body | {"authorization": self.headers["authorization"]})
        self.answer(self.server.reply(self.request_body, before))

    def answer(self, reply):
        if callable(reply):
            return reply(self)
        say = reply if isinstance(reply, Say) else Say(reply)
        body = {"error": {"message": say.text, **say.extra}} if say.status != 200 else {
            "choices": [{"finish_reason": say.reason, "message": {"role": "assistant", "content": say.text}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
        return self.send(say.status, json.dumps(body), headers=say.headers)

    def send(self, status, text, kind="application/json", headers=None, promised=None):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(promised or len(text.encode())))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass
