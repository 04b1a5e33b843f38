"""The command: files in, files out, and one clear line for what is wrong."""

import json
import sys
import types

import pytest
from refinement_stubs import StubEncoder, StubEngine

from raft_fast import config, refine
from raft_fast.options import DataOptions, EngineOptions, ModelOptions, RefineOptions


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Run `python -m raft_fast.refine` with stub models; gives the specs that were loaded."""
    loaded = []

    def load_engine(spec, options, shared, batch_size, engines):
        loaded.append((spec, options.model, batch_size))
        return StubEngine("stub", lambda text, seed: 0.9 if text.startswith("Question: ")
                          and "Answer to grade" in text else f"said {seed}")

    models = types.ModuleType("raft_fast.models")
    models.load_engine = load_engine
    models.load_encoder = lambda options: StubEncoder()
    monkeypatch.setitem(sys.modules, "raft_fast.models", models)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["refine", *arguments])
        refine.main()
        return loaded

    return run


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def questions(count):
    return [{"question": f"q{n}?", "answer": f"answer {n}"} for n in range(count)]


def test_it_writes_everything_and_sets_bad_rows_aside(command, tmp_path):
    write(tmp_path / "rows.jsonl", *questions(9), {"question": "no answer?", "answer": ""})
    loaded = command("--data", "rows.jsonl", "--output_dir", "out", "--max_rows", "4", "--model",
                     "somebody/else", "--refine_batch_size", "5")
    assert loaded == [("self", "somebody/else", 5)]  # one model plays all parts
    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == {
        "refined.parquet", "decisions.jsonl", "summary.json", "rejected.jsonl", "config.yaml",
        "journal.jsonl", "report.html", "README.md", "runs.jsonl",
        "golds.npy", "golds.json"}
    assert json.loads((out / "summary.json").read_text())["rows"] == {"used": 4, "total": 9}
    rejected = json.loads((out / "rejected.jsonl").read_text())
    assert (rejected["file"], rejected["line"], rejected["reason"]) == (
        "rows.jsonl", 10, "answer is empty")
    _, (data, *_) = config.parse("refine", "", [DataOptions, ModelOptions, EngineOptions, RefineOptions],
                                   ["--config", str(out / "config.yaml")])
    assert (data.max_rows, data.data) == (4, "rows.jsonl")


def test_the_folder_has_the_datas_name_where_none_is_given(command, tmp_path):
    write(tmp_path / "rows.jsonl", *questions(2))
    command("--data", "rows.jsonl")
    assert (tmp_path / "refined" / "rows" / "refined.parquet").is_file()


@pytest.mark.parametrize(("arguments", "says"), [
    ([], "--data is missing"),
    (["--data", "none.jsonl"], "--data none.jsonl: no such file"),
    (["--data", "rows.jsonl", "--tau", "3"], "--tau 3.0: must be in"),
    (["--data", "rows.jsonl", "--shard", "3/2"], "--shard 3/2: must be i/n"),
    (["--data", "rows.jsonl", "--quorum", "2"], "--quorum 2: is more than the 1 judges"),
    (["--merge", "true", "--output_dir", "none"], "has no shards"),
    (["--data", "rows.jsonl", "--juge", "x"], "unknown option --juge (did you mean --judge?)"),
])
def test_bad_input_is_one_line_and_exit_code_2(command, tmp_path, capsys, arguments, says):
    write(tmp_path / "rows.jsonl", *questions(1))
    with pytest.raises(SystemExit) as stopped:
        command(*arguments)
    assert stopped.value.code == 2
    line, = capsys.readouterr().err.splitlines()
    assert says in line


def test_refined_rows_are_not_refined_again(command, tmp_path, capsys):
    write(tmp_path / "rows.jsonl", *questions(1))
    command("--data", "rows.jsonl", "--output_dir", "out")
    with pytest.raises(SystemExit):
        command("--data", "out/refined.parquet", "--output_dir", "again")
    assert "is refined already" in capsys.readouterr().err


def test_a_dry_run_counts_shows_every_prompt_and_writes_nothing(command, tmp_path, capsys, monkeypatch):
    write(tmp_path / "rows.jsonl", *questions(9))
    monkeypatch.setattr(sys.modules["raft_fast.models"], "load_tokens", lambda spec, options: (
        None if "://" in spec else lambda messages: 100), raising=False)
    loaded = command("--data", "rows.jsonl", "--output_dir", "out", "--dry_run", "true", "--fusion_rounds",
                     "2", "--judge", "self,big@http://host/v1", "--rewrite_max_new_tokens", "50")
    assert loaded == []
    assert not (tmp_path / "out").exists()
    said = capsys.readouterr().out
    for shown in ("--- rewrite", "Reword the answer", "--- fuse", "Combine the two", "--- judge", "q0?"):
        assert shown in said
    table = {tuple(line.split()[:1] + line.split()[-1:]): line.split()[1:5]
             for line in said.splitlines() if line.startswith("--") and len(line.split()) > 3}
    assert table["--rewriter", "self"] == ["9", "900", "450", "450"]  # an answer is 50 tokens at most
    assert table["--fuser", "self"] == ["18", "1,800", "900", "900"]
    assert table["--judge", "self"] == ["18", "1,800", "72", "-"]
    assert table["--judge", "big@http://host/v1"][0] == "18"
    assert "at most 63 requests, at least 9" in said
    assert "tokens of big@http://host/v1 are guessed" in said


def test_the_last_shard_joins_all(command, tmp_path):
    write(tmp_path / "rows.jsonl", *questions(9))
    command("--data", "rows.jsonl", "--output_dir", "whole")
    command("--data", "rows.jsonl", "--output_dir", "out", "--shard", "2/2")
    assert not (tmp_path / "out" / "refined.parquet").exists()
    command("--data", "rows.jsonl", "--output_dir", "out", "--shard", "1/2")
    for name in ("refined.parquet", "decisions.jsonl", "summary.json", "rejected.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    (tmp_path / "out" / "refined.parquet").unlink()
    command("--merge", "true", "--output_dir", "out")
    assert (tmp_path / "out" / "refined.parquet").exists()
