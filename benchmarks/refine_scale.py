"""Stage 1 on many rows: does memory stay flat, and is the time the engine's?

    python -m benchmarks.refine_scale            # both questions
    python -m benchmarks.refine_scale memory     # 10,000 and 100,000 rows through engines that answer at once
    python -m benchmarks.refine_scale load       # a server that answers after a fixed delay, 64 in flight

Every measurement runs in a process of its own. The encoder is a stand-in: its time is the model's.
"""

import json
import re
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.slow_server import ANSWER, SlowServer
from raft_fast.data.dataset import read_table
from raft_fast.data.texts import Message
from raft_fast.engines import Reply, Sampling
from raft_fast.recipes.raft import stage1
from raft_fast.refinement import Roles, refine
from raft_fast.run.options import RefineOptions
from raft_fast.run.progress import Reporter

ROWS = (10_000, 100_000)
LOAD_ROWS = (1_500,)
IN_FLIGHT = 64
WORDS = 40  # of an answer


class Instant:
    """An engine that answers at once; its third fusion of a row is the first one good enough."""

    def __init__(self, identity: str) -> None:
        self.identity = identity

    def generate(self, conversations: Iterable[list[Message]], sampling: Sampling
                 ) -> Iterator[tuple[int, Reply]]:
        for index, messages in enumerate(conversations):
            gold = re.findall(ANSWER, messages[-1]["content"])[0]
            yield index, Reply(f"Put in other words: {gold} ({'i' * sampling.seed})", "stop", 100, 50)

    def score(self, conversations: Iterable[list[Message]]) -> Iterator[tuple[int, Reply]]:
        for index, messages in enumerate(conversations):
            good = "(iii)" in messages[-1]["content"]
            yield index, Reply("", "stop", 100, 2, score=0.9 if good else 0.5)


class Alike:
    """An encoder for which all texts say the same."""

    identity, device = "alike", "cpu"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.ones((len(texts), 1), dtype=np.float32)


def write_rows(count: int, path: Path) -> None:
    """Rows whose answers have `WORDS` words, no two alike."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            name = "".join(chr(ord("a") + int(digit)) for digit in str(number))
            answer = f"The answer about {name} is " + " ".join(["word"] * (WORDS - 5))
            file.write(json.dumps({"question": f"What about {name}?", "answer": answer}) + "\n")


def refine_once(count: int, roles: Roles) -> dict[str, Any]:
    """Refine so many rows from disk to disk; seconds, requests and the process's peak memory."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_rows(count, folder / "rows.jsonl")
        start = time.perf_counter()
        rows = read_table(str(folder / "rows.jsonl"), 0.0).rows
        summary = refine(rows, stage1(RefineOptions()), roles, Alike(), folder / "out", Reporter())
        seconds = time.perf_counter() - start
        requests = (folder / "out" / "journal.jsonl").read_bytes().count(b'"key"')
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
        return {"rows": count, "seconds": round(seconds, 2), "rows_per_second": round(count / seconds, 1),
                "requests": requests, "fused": summary["sources"]["fused"],
                "peak_mib": round(peak / 1024, 1),
                "output_mib": round(sum(file.stat().st_size for file in (folder / "out").iterdir())
                                    / 2**20, 1)}


def memory(count: int) -> dict[str, Any]:
    """Rewriter, fuser and judge that answer at once: three rounds a row, seven requests."""
    return refine_once(count, Roles(Instant("writer"), Instant("fuser"), [Instant("judge")]))


def load(count: int, delay: float) -> dict[str, Any]:
    """One server is rewriter, fuser and judge; the least share of the wall time that waits for it."""
    with SlowServer(delay) as server:
        engine = server.engine(IN_FLIGHT)
        before = time.process_time()
        found = refine_once(count, Roles(engine, engine, [engine]))
        cpu, seen = time.process_time() - before, server.seen()
    least = found["requests"] * delay / IN_FLIGHT
    return found | {
        "delay_seconds": delay, "in_flight": IN_FLIGHT, "least_seconds": round(least, 2),
        "share_in_engine": round(least / found["seconds"], 4),
        "cpu_ms_per_request": round(1000 * cpu / found["requests"], 3), "server_saw": seen}


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("question", nargs="?", choices=("memory", "load"))
    parser.add_argument("--rows", type=int, nargs="+", help="of each measurement")
    parser.add_argument("--delay", type=float, nargs="+", default=[1.0, 2.0], help="seconds, for load")
    parser.add_argument("--once", action="store_true", help="measure in this process and print it")
    args = parser.parse_args()
    if args.once:
        count, delay = args.rows[0], args.delay[0]
        print(json.dumps(memory(count) if args.question == "memory" else load(count, delay)))
        return
    cases = {"memory": [["--rows", str(count)] for count in args.rows or ROWS],
             "load": [["--rows", str(count), "--delay", str(delay)]
                      for count in args.rows or LOAD_ROWS for delay in args.delay]}
    for question in [args.question] if args.question else cases:
        for words in cases[question]:
            found = measure.apart("refine_scale", question, *words, "--once")
            print(json.dumps(found), flush=True)
            measure.record("refine_scale", "cpu", found, case=" ".join([question, *words]))


if __name__ == "__main__":
    main()
