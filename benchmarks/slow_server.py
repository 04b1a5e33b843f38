"""A server that speaks enough of OpenAI's protocol and answers every request after a fixed delay.

It runs in a process of its own, so that the interpreter it takes is not the measured one.
"""

import json
import multiprocessing
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

ANSWER = r"(?:^|\n)(?:First answer|Reference answer|Answer): (.*)"


class SlowServer:
    """Use as a context manager; `url` is its address."""

    def __init__(self, delay: float) -> None:
        self.delay = delay

    def __enter__(self) -> "SlowServer":
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(self.delay, there), daemon=True)
        self._process.start()
        self.url = f"http://127.0.0.1:{here.recv()}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()


def _serve(delay: float, told: Connection) -> None:
    server = _Server(("127.0.0.1", 0), _handler(delay))
    told.send(server.server_address[1])
    server.serve_forever()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def _handler(delay: float) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._send({"object": "list", "data": [{"id": "stub", "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            start = time.perf_counter()
            said = body["messages"][-1]["content"]
            text = "9" if "Answer to grade" in said else f"Put so: {re.findall(ANSWER, said)[0]}"
            answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "stub",
                      "choices": [{"index": 0, "finish_reason": "stop",
                                   "message": {"role": "assistant", "content": text}}],
                      "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}}
            time.sleep(max(0.0, delay - (time.perf_counter() - start)))
            self._send(answer)

        def _send(self, value: Any) -> None:
            text = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
