"""Deterministic stand-ins: engines that answer by a function, encoders by a table, a bare workbench.

`python refinement_stubs.py FOLDER ROWS SECONDS` is a run of stage 1 in a process of its own, to be killed."""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from raft_fast.data.dataset import Row
from raft_fast.data.texts import Message
from raft_fast.engines import Reply, Sampling
from raft_fast.engines.asking import load_prompts
from raft_fast.recipes.raft import stage1
from raft_fast.refinement import Roles, answers, refine
from raft_fast.refinement.bench import Workbench
from raft_fast.refinement.candidates import REWRITE, Candidate
from raft_fast.refinement.checks import CHECKS, Checker
from raft_fast.refinement.parts import criticise
from raft_fast.run.errors import entry
from raft_fast.run.options import RefineOptions
from raft_fast.run.progress import Reporter

UNCHECKED = ",".join(CHECKS)
"""--skip_checks for tests of something else: what stubs say need not make sense."""
OUTPUTS = ("decisions.jsonl", "refined.parquet", "summary.json")


class StubEngine:
    """Answers with `answer(text of the last turn, seed)`; a number is a score, a Reply itself.

    It remembers what it was asked. `dies_after` replies it raises what is in `death`."""

    def __init__(self, identity: str, answer: Callable[[str, int], str | float | Reply],
                 dies_after: int | None = None, death: type[BaseException] = KeyboardInterrupt) -> None:
        self.identity, self.answer = identity, answer
        self.dies_after, self.death = dies_after, death
        self.asked: list[list[Message]] = []

    def generate(self, conversations: Sequence[list[Message]], sampling: Sampling
                 ) -> Iterator[tuple[int, Reply]]:
        for index in reversed(range(len(conversations))):  # replies come in any order
            if self.dies_after is not None and len(self.asked) >= self.dies_after:
                raise self.death
            self.asked.append(conversations[index])
            answer = self.answer(conversations[index][-1]["content"], sampling.seed)
            text, score = (answer, None) if isinstance(answer, str) else ("", answer)
            yield index, answer if isinstance(answer, Reply) else Reply(
                text, "stop", prompt_tokens=10, completion_tokens=2, score=score)

    def score(self, conversations: Sequence[list[Message]]) -> Iterator[tuple[int, Reply]]:
        yield from self.generate(conversations, Sampling())


class StubEncoder:
    """Every text is the same, but those in the table: their similarity to the others."""

    identity, device = "stub", "cpu"

    def __init__(self, table: dict[str, float] | None = None) -> None:
        self.table = table or {}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), 1 + len(self.table)), np.float64)
        for vector, text in zip(vectors, texts, strict=True):
            vector[0] = self.table.get(text, 1.0) if text.strip() else 0.0
            if text in self.table:
                vector[1 + list(self.table).index(text)] = (1 - vector[0] ** 2) ** 0.5
        return vectors.astype(np.float32)


def row(row_id: str, question: str = "What?", gold: str = "gold answer") -> Row:
    return Row(row_id, [Message(role="user", content=question)], gold, gold)


def rows_of(count: int) -> list[Row]:
    return [row(f"r{n}", f"question {n}?", f"gold {n}") for n in range(count)]


def run(folder, rows, roles, encoder=None, reporter=None, *, skip_checks=UNCHECKED, given=None, **options):
    """RAFT's stage 1 with these options; `given` goes to `refine`. Returns the summary."""
    stage = stage1(RefineOptions(skip_checks=skip_checks, **options))
    return refine(rows, stage, roles, encoder or StubEncoder(), folder, reporter or Reporter(),
                  **(given or {}))


def rewritten(rows, replies, encoder, golds=None, tau=0.0):
    """Candidates with these replies, criticised as rewrites."""
    prompts = load_prompts()
    bench = Workbench(RefineOptions(), None, None, [], encoder, golds, prompts, Sampling(), Checker())
    found = [Candidate(one, REWRITE, 1, reply) for one, reply in zip(rows, replies, strict=True)]
    criticise(found, bench, prompts.rewrite, tau, retrieval=True)
    return found


def run_slowly(folder: Path, count: int, seconds: float) -> None:
    """Rewrites that differ by row, fusions that differ by seed, a judge that fails now and then. Engines
    answer after `seconds`; what they were asked is in `folder`/asked.txt."""
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
    run(folder, rows, roles, fusion_rounds=2)


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


if __name__ == "__main__":
    entry(lambda: run_slowly(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))()
