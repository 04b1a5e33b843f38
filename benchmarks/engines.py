"""Does the server engine keep a server busy? `python -m benchmarks.engines`

A server that answers every request after a fixed delay is asked with so many requests in flight. The
floor is requests * delay / in_flight; the share of the wall clock that the floor takes is the share
spent waiting for the server, and 1 is perfect. The server is a process of its own.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.measure import command, machine, results_folder
from raft_fast.engines import Message, Sampling
from raft_fast.engines.openai import OpenAIEngine
from raft_fast.options import EngineOptions

CASES = ((64, 0.2), (64, 1.0), (256, 1.0))  # requests in flight, seconds of delay
REPLY = {
    "id": "1", "object": "chat.completion", "created": 0, "model": "fixed-delay",
    "usage": {"prompt_tokens": 100, "completion_tokens": 100, "total_tokens": 200},
    "choices": [{"index": 0, "finish_reason": "stop",
                 "message": {"role": "assistant", "content": "word " * 100}}]}


async def answer_late(delay: float) -> None:
    """Serve on a free port, which goes to stdout; every request is answered after `delay` seconds."""
    body = json.dumps(REPLY).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(body), body)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n")
                           if line.startswith(b"content-length:")]
                if lengths:
                    await reader.readexactly(int(lengths[0]))
                    await asyncio.sleep(delay)
                writer.write(answer if lengths else b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def fixed_delay_server(delay: float) -> Iterator[str]:
    """The URL of a server in a process of its own that answers after `delay` seconds."""
    process = subprocess.Popen([sys.executable, __file__, "--serve", str(delay)],
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.kill()
        process.wait()


def measure(in_flight: int, delay: float, seconds: float) -> dict[str, float]:
    """One case: enough requests for `seconds`, after a round that opens the connections."""
    with fixed_delay_server(delay) as url:
        engine = OpenAIEngine.connect(f"fixed-delay@{url}", EngineOptions(requests_in_flight=in_flight))
        requests = round(seconds / delay) * in_flight
        for count in (in_flight, requests):
            conversations = ([Message(role="user", content=f"{number} " + "word " * 100)]
                             for number in range(count))
            start, cpu = time.perf_counter(), time.process_time()
            replies = sum(reply.error is None for _, reply in engine.generate(conversations, Sampling()))
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            assert replies == count
    floor = requests * delay / in_flight
    return {"in_flight": in_flight, "delay": delay, "requests": requests, "wall": round(wall, 3),
            "floor": round(floor, 3), "share_waiting": round(floor / wall, 4),
            "cpu_ms_per_request": round(1000 * cpu / requests, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of waiting, each case")
    parser.add_argument("--serve", type=float, metavar="DELAY", help="be the server")
    arguments = parser.parse_args()
    if arguments.serve is not None:
        return asyncio.run(answer_late(arguments.serve))
    found = []
    for in_flight, delay in CASES:
        found.append(measure(in_flight, delay, arguments.seconds))
        print(json.dumps(found[-1]), flush=True)
    result = {"machine": machine("cpu"), "command": command(), "load_at_start": os.getloadavg()[0],
              "cases": found}
    path = results_folder("cpu") / "engines.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return print(path)


if __name__ == "__main__":
    main()
