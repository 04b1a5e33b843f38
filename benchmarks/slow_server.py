"""A server that speaks enough of OpenAI's protocol and answers every request after a fixed delay.

It runs in a process of its own, so that its interpreter is not the measured one, and counts its requests in
flight. `python -m benchmarks.slow_server SECONDS` starts one by hand.
"""

import asyncio
import hashlib
import json
import re
import subprocess
import sys
import time
from typing import Any
from urllib.request import urlopen

ANSWER = r"(?:^|\n)(?:First answer|Reference answer|Answer): (.*)"
USAGE = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}


class SlowServer:
    """Use as a context manager; `url` is its address."""

    def __init__(self, delay: float) -> None:
        self.delay = delay

    def __enter__(self) -> "SlowServer":
        self._process = subprocess.Popen([sys.executable, "-m", "benchmarks.slow_server", str(self.delay)],
                                         stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        return self

    def engine(self, in_flight: int) -> Any:
        """A client with so many requests in flight."""
        from raft_fast.engines.openai import OpenAIEngine
        from raft_fast.run.options import EngineOptions

        return OpenAIEngine(f"stub@{self.url}", EngineOptions(requests_in_flight=in_flight))

    def seen(self) -> dict[str, Any]:
        """Its load, from the first request's arrival to the last answer."""
        with urlopen(self.url.removesuffix("/v1") + "/seen") as answer:
            return json.load(answer)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class InFlight:
    """The requests that wait for their answers: how many now, and requests times seconds so far."""

    def __init__(self) -> None:
        self.now = self.requests = 0
        self.first = self.last = self.waited = 0.0

    def change(self, by: int) -> None:
        at = time.perf_counter()
        self.first = self.first or at
        self.waited += self.now * (at - (self.last or at))
        self.last, self.now, self.requests = at, self.now + by, self.requests + (by > 0)

    def told(self) -> dict[str, Any]:
        seconds = self.last - self.first
        return {"requests": self.requests, "seconds": round(seconds, 3),
                "mean_in_flight": round(self.waited / max(seconds, 1e-9), 2),
                "server_cpu_seconds": round(time.process_time(), 2)}


def reply(said: str, seed: int) -> str:
    """A score for an answer to grade, half of them good enough to stop at; otherwise the answer, another
    one for every seed."""
    if "Answer to grade" in said:
        return "9" if hashlib.sha256(said.encode()).digest()[0] % 2 else "5"
    drawn = "".join(chr(ord("a") + int(digit)) for digit in str(seed))
    return f"Put so: {''.join(re.findall(ANSWER, said)[:1])} ({drawn})"


async def serve(delay: float) -> None:
    """Print the address and answer for ever."""
    in_flight = InFlight()

    async def answer(path: str, body: bytes) -> Any:
        if path == "/seen":
            return in_flight.told()
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": "stub", "object": "model"}]}
        in_flight.change(1)
        asked = json.loads(body)
        text = reply(asked["messages"][-1]["content"], asked.get("seed", 0))
        await asyncio.sleep(delay)
        in_flight.change(-1)
        return {"id": "1", "object": "chat.completion", "created": 0, "model": "stub", "usage": USAGE,
                "choices": [{"index": 0, "finish_reason": "stop",
                             "message": {"role": "assistant", "content": text}}]}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1])) if length else b""
                text = json.dumps(await answer(head.split()[1].decode(), body)).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                             b"content-length: %d\r\n\r\n%s" % (len(text), text))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
