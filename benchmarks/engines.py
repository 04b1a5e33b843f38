"""Does the server engine keep a server busy? `python -m benchmarks.engines`

A server answers every request after a fixed delay, with so many requests in flight. The floor is
requests * delay / in_flight; its share of the wall clock is the share spent waiting for the server, and 1
is perfect. The server is a process of its own on the same cores.
"""

import json
import time

from benchmarks import measure
from benchmarks.slow_server import SlowServer
from raft_fast.data.texts import Message
from raft_fast.engines import Sampling

CASES = ((64, 0.2), (64, 1.0), (256, 1.0))  # requests in flight, seconds of delay


def one_case(in_flight: int, delay: float, seconds: float) -> dict[str, float]:
    """Enough requests for `seconds`, after a round that opens the connections."""
    with SlowServer(delay) as server:
        engine, requests = server.engine(in_flight), max(1, round(seconds / delay)) * in_flight
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
    parser = measure.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of waiting, each case")
    args = parser.parse_args()
    found = []
    for in_flight, delay in CASES:
        found.append(one_case(in_flight, delay, args.seconds))
        print(json.dumps(found[-1]), flush=True)
    measure.record("engines", "cpu", {"cases": found})


if __name__ == "__main__":
    main()
