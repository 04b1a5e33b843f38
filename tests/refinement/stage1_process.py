"""A run of stage 1 in a process of its own, to be killed: `python stage1_process.py FOLDER ROWS SECONDS`.

Engines answer by a rule, SECONDS after they were asked; what they were asked is in FOLDER/asked.txt.
"""

import hashlib
import os
import sys
import time
from pathlib import Path

import refinement_stubs
from refinement_stubs import StubEngine, row

from raft_fast.engines import Reply
from raft_fast.refinement import Roles, answers
from raft_fast.run.errors import entry


def run(folder: Path, count: int, seconds: float) -> None:
    """Rewrites that differ by row, fusions that differ by seed, a judge that fails now and then."""
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / "asked.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def engine(name, answer):
        def slowly(text, seed):
            time.sleep(seconds)
            os.write(log, f"{name} {digest(text)} {seed}\n".encode())
            return answer(digest(text), seed)

        return StubEngine(name, slowly)

    roles = Roles(
        engine("writer", lambda about, seed: f"rewrite {about}"),
        engine("fuser", lambda about, seed: f"fusion {about} {seed}"),
        [engine("judge", lambda about, seed: Reply("", error="no score") if about[0] in "01"
                else int(about[:2], 16) / 255)])
    rows = [row(f"r{n}", f"question {n % (count - 5)}?", f"gold {n % (count - 5)}")  # five come twice
            for n in range(count)]
    answers.BLOCK_ROWS = 8
    refinement_stubs.run(folder, rows, roles, fusion_rounds=2)


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@entry
def main() -> None:
    run(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))


if __name__ == "__main__":
    main()
