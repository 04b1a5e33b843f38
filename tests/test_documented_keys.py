"""docs/FILES.md names every key that stage 2 writes, and none that it does not."""

import json

from distillation.watched_run import make_scorer, run
from evaluation.evaluation_stubs import OverlapEncoder, StubEngine, fake_ifbench
from golden import documented

from raft_fast.distillation.watching import LogCompletions
from raft_fast.evaluation import evaluate
from raft_fast.evaluation.during_training import EvaluateEvery
from raft_fast.run.folder import save_costs
from raft_fast.run.options import EvaluateOptions
from raft_fast.run.progress import Reporter

ON_DEMAND = {"evaluation.json": {"paraphrases", "jury", "lm_eval"}}


def test_the_documented_keys_are_those_written(tmp_path, chat, rows):
    """All but those of inputs.json: only the whole program knows all its inputs (test_end_to_end.py)."""
    reporter = Reporter()
    with reporter.phase("train"):
        run(tmp_path, chat, [LogCompletions(2, chat), EvaluateEvery(2, make_scorer(chat))])
    evaluate(StubEngine(str), StubEngine(str), rows, EvaluateOptions(), OverlapEncoder(), reporter, tmp_path,
             ifbench=fake_ifbench(tmp_path / "wheel"))
    save_costs(tmp_path, reporter)
    for name in ("metrics.jsonl", "evaluation.json", "evaluations.jsonl", "completions.jsonl", "phases.json"):
        assert documented(name) - ON_DEMAND.get(name, set()) == written(tmp_path / name), name


def written(path):
    text = path.read_text()
    found = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    return {key for record in (found if isinstance(found, list) else [found]) for key in record}
