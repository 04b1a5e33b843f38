"""The command: files in, files out, and one clear line for what is wrong."""

import json
import re
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from refinement_stubs import OUTPUTS, UNCHECKED, StubEncoder, StubEngine, rows_of
from refinement_stubs import run as refine_rows

from raft_fast import refine
from raft_fast.refinement import Roles, answers, outputs
from raft_fast.run import config
from raft_fast.run.errors import UserError
from raft_fast.run.folder import only_process
from raft_fast.run.options import DataOptions, EngineOptions, ModelOptions, RefineOptions
from raft_fast.run.progress import Reporter

FINISHED = (*OUTPUTS, "config.yaml", "rejected.jsonl")


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Run `python -m raft_fast.refine` with stub models; gives the specs that were loaded."""
    loaded = []

    def load_engine(spec, options, shared, batch_size, engines):
        loaded.append((spec, options.model, batch_size))
        return StubEngine("stub", lambda text, seed: 0.9 if text.startswith("Question: ")
                          and "Answer to grade" in text else f"said {seed}")

    monkeypatch.setenv("RAFT_FAST_CACHE", str(tmp_path / "cache"))  # what else is here changes nothing
    monkeypatch.setitem(sys.modules, "raft_fast.models.load",
                        SimpleNamespace(load_encoder=lambda options: StubEncoder()))
    monkeypatch.setattr("raft_fast.engines.load.load_engine", load_engine)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["refine", *arguments])
        with pytest.raises(SystemExit) if code else nullcontext() as stopped:
            refine.main()
        assert not code or stopped.value.code == code
        return loaded

    return run


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def questions(count):
    return [{"question": f"q{n}?", "answer": f"answer {n}"} for n in range(count)]


def test_a_second_process_touches_no_file_of_the_first(command, tmp_path, capsys):
    write(tmp_path / "rows.jsonl", *questions(3))
    with only_process(tmp_path / "out"):
        command("--data", "rows.jsonl", "--output_dir", "out", code=2)
    assert "another process is at work in it" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out").iterdir()] == [".lock"]


def test_it_writes_everything_counts_rows_and_sets_bad_ones_aside(command, tmp_path, capsys):
    write(tmp_path / "rows.jsonl", *questions(9), {"question": "no answer?", "answer": ""})
    loaded = command("--data", "rows.jsonl", "--output_dir", "out", "--max_rows", "4", "--model",
                     "somebody/else", "--refine_batch_size", "5", "--skip_checks", UNCHECKED)
    assert loaded == [("self", "somebody/else", 5)]  # one model plays all parts
    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == {
        *FINISHED, "journal.jsonl", "report.html", "README.md", ".lock", "golds.npy", "screen.json", "screen"}
    assert json.loads((out / "summary.json").read_text())["rows"] == {"used": 4, "total": 9}
    rejected = json.loads((out / "rejected.jsonl").read_text())
    assert (rejected["file"], rejected["line"], rejected["reason"]) == ("rows.jsonl", 10, "answer is empty")
    _, (data, *_) = config.parse("refine", "", [DataOptions, ModelOptions, EngineOptions, RefineOptions],
                                   ["--config", str(out / "config.yaml")])
    assert (data.max_rows, data.data) == (4, "rows.jsonl")
    said = " ".join(capsys.readouterr().err.split())
    assert "rows.jsonl: 4 of 10 rows, 1 set aside" in said
    assert "4 of 4 rewrites passed the filter; training answers: 4 fused" in said
    report = (out / "report.html").read_text()
    assert re.search(r"rows set aside, in rejected.jsonl</t[hd]>\s*<td[^>]*>1<", report)
    command("--data", "out/refined.parquet", "--output_dir", "again", code=2)
    assert "is refined already" in capsys.readouterr().err


def test_a_run_that_refined_nothing_says_why(command, tmp_path, capsys):
    write(tmp_path / "rows.jsonl", *questions(4)[1:])
    command("--data", "rows.jsonl", "--output_dir", "out")  # "said 0" is no "answer 1"
    said = " ".join(capsys.readouterr().err.split())
    assert "0 of 3 rewrites passed the filter; training answers: 3 gold" in said
    assert "nothing was refined: every row keeps its gold answer. Refused by: numbers 3" in said


@pytest.mark.parametrize(("arguments", "says"), [
    ([], "--data is missing"), (["--data", "rows.jsonl", "--tau", "3"], "--tau 3.0: must be at least -1"),
    (["--data", "rows.jsonl", "--shard", "3/2"], "--shard 3/2: must be i/n"),
    (["--data", "rows.jsonl", "--shard", "4/4"], "--shard 4/4: there are only 1 rows"),
    (["--data", "rows.jsonl", "--ju\x1b[2Jge", "x"], "unknown option --ju\N{REPLACEMENT CHARACTER}[2Jge"),
    (["--data", "rows.jsonl", "--skip_checks", "nubers", "--dry_run", "true"], "nubers: no such check"),
    (["--data", "rows.jsonl", "--quorum", "2"], "--quorum 2: must be at most the number of judges (1)"),
    (["--merge", "true", "--output_dir", "none"], "has no shards"),
    (["--merge", "--dry_run", "--output_dir", "none"], "--dry_run True: must be false with --merge"),
    (["--data", "rows.jsonl", "--judge", "a@http://x/v1,b@http://y/v1"], "two of them are one model"),
])
def test_bad_input_is_one_line_and_exit_code_2(command, tmp_path, capsys, arguments, says):
    write(tmp_path / "rows.jsonl", *questions(1))
    command(*arguments, code=2)
    errors = [line for line in capsys.readouterr().err.splitlines()
              if not line.startswith(("read rows", "rows.jsonl: ", "load models"))]
    assert len(errors) == 1
    assert says in errors[0]
    assert not (tmp_path / "none").exists()


def test_a_start_that_fails_leaves_finished_files_as_they_were(command, tmp_path, monkeypatch):
    write(tmp_path / "rows.jsonl", *questions(3))
    shard = ("--data", "rows.jsonl", "--output_dir", "out", "--shard", "1/1")
    command(*shard)
    files = {path: path.read_bytes() for path in (tmp_path / "out/shards/1-of-1").glob("*.*")}
    monkeypatch.setattr("raft_fast.refinement.answers.refine", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command(*shard, "--skip_checks", "numbers", "--overwrite")
    command(*shard, "--skip_checks", "numbers", code=2)
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize(("arguments", "says"), [
    (["--data", "other.jsonl"], "rows of --data is"),
    (["--data", "rows.jsonl", "--max_rows", "2"], "--max_rows is 0 there and 2 here"),
    (["--data", "rows.jsonl", "--tau", "0.7"], "--tau is 0.8 there and 0.7 here"),
    (["--data", "rows.jsonl", "--prompts", "words"], "rewrite.txt is"),
    (["--data", "rows.jsonl", "--extra_body", '{"top_p": 0.5}'], "--extra_body is"),
])
def test_finished_answers_are_not_replaced_by_others_unasked(command, tmp_path, capsys, arguments, says):
    write(tmp_path / "rows.jsonl", *questions(4))
    write(tmp_path / "other.jsonl", *questions(3))
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "rewrite.txt").write_text("{question} {answer}: say it in other words")
    command("--data", "rows.jsonl", "--output_dir", "out", "--judge", "big@http://a/v1")
    write(tmp_path / "moved.jsonl", *questions(4))  # what changes no answer may change
    same = ("--judge", "big@http://b/v1", "--output_dir", "out")
    command("--data", "moved.jsonl", *same, "--requests_in_flight", "2", "--retry_failed", "true")
    assert "requests_in_flight: 2" in (tmp_path / "out" / "config.yaml").read_text()
    before = {name: (tmp_path / "out" / name).read_bytes() for name in FINISHED}
    command(*arguments, *same, code=2)
    said = " ".join(capsys.readouterr().err.split())
    assert says in said
    assert "--overwrite true" in said
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FINISHED} == before
    assert not list((tmp_path / "out").glob("*partial*"))
    command(*arguments, *same, "--overwrite", "true")
    assert (tmp_path / "out" / "config.yaml").read_bytes() != before["config.yaml"]


def test_a_dry_run_counts_shows_every_prompt_and_writes_nothing(command, tmp_path, capsys):
    """A row cannot steer the terminal."""
    write(tmp_path / "rows.jsonl", {"question": "q0\x1b[2J?", "answer": "answer 0"}, *questions(9)[1:])
    loaded = command("--data", "rows.jsonl", "--output_dir", "out", "--dry_run", "true", "--fusion_rounds",
                     "2", "--judge", "self,big@http://host/v1", "--rewrite_max_new_tokens", "50")
    assert loaded == []
    assert not (tmp_path / "out").exists()
    said = capsys.readouterr().out
    for shown in ("--- rewriter", "Reword the answer", "--- fuser", "Combine the two", "--- judge",
                  "q0\N{REPLACEMENT CHARACTER}[2J?"):
        assert shown in said
    assert "\x1b" not in said
    for line in (r"--rewriter +9 .* 18  self", r"--fuser +18 .* 36  self",  # an answer has 2 tokens
                 r"--judge +18 .* 72  self", r"--judge +18 .* big@http://host/v1", "at most 63 .* least 9"):
        assert re.search(line, said), line


@pytest.mark.parametrize(("name", "spoil", "says"), [
    ("summary.json", lambda text: None, "shard 2/2 is not finished"),
    ("decisions.jsonl", lambda text: text[: text.index("\n") + 1], "of its shards hold 11 rows of 20"),
    ("config.yaml", lambda text: text.replace("model: a", "model: b"),
     r"from .*1-of-2 \(--model is 'a' there and 'b' here\)"),
    ("summary.json", lambda text: text.replace("hash 1", "hash 2"),
     "rows of --data is 'hash 1' there and 'hash 2' here"),
    ("summary.json", lambda text: text.replace('"fuser": "fuser"', '"fuser": "another"'),
     "fuser is 'fuser' there"),
    ("summary.json", lambda text: text.replace('"rewrite": "rewrite-', '"rewrite": "another-'),
     "rewrite.txt is"),
])
def test_shards_that_are_missing_cut_or_made_of_anything_else_are_refused_and_other_addresses_are_not(
        tmp_path, name, spoil, says):
    roles = Roles(*(StubEngine(part, lambda text, seed: f"said {seed}") for part in ("writer", "fuser")),
                  [StubEngine("judge", lambda text, seed: len(text) % 7 / 6)])
    for number in (1, 2):
        folder = outputs.shard_folder(tmp_path, f"{number}/2")
        refine_rows(folder, rows_of(20)[number - 1 :: 2], roles, given={"data": "hash 1"})
        (folder / "config.yaml").write_text(f"model: a\nfuser: fuser@http://host-{number}/v1\n")
    text = (folder / name).read_text()
    spoiled = spoil(text)
    (folder / name).unlink() if spoiled is None else (folder / name).write_text(spoiled)
    with pytest.raises(UserError, match=says):
        outputs.merge(tmp_path, outputs.finished_shards(tmp_path), Reporter())
    assert not (tmp_path / "refined.parquet").exists()
    (folder / name).write_text(text)
    assert outputs.merge(tmp_path, outputs.finished_shards(tmp_path), Reporter())["finished"]


class TellsQuestionsApart(StubEncoder):
    """Questions differ by their first word; answers are all alike."""

    def embed(self, texts):
        return np.eye(64, dtype=np.float32)[[
            int(text.split()[0].strip("q?")) if text.endswith("?") else 63 for text in texts]]


def test_shards_and_blocks_of_any_size_join_into_the_files_of_one_run(command, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["raft_fast.models.load"], "load_encoder",
                        lambda options: TellsQuestionsApart())
    twice = [{"id": "again", "question": "q3 or so?", "answer": "answer 3"}]
    rows = questions(12)
    write(tmp_path / "rows.jsonl", *rows[:5], *twice, *rows[5:])
    options = ["--data", "rows.jsonl", "--duplicates", "drop"]
    command(*options, "--output_dir", "whole")
    monkeypatch.setattr(answers, "BLOCK_ROWS", 4)
    command(*options, "--output_dir", "out", "--shard", "2/2")
    command(*options, "--output_dir", "out", "--shard", "1/2")
    names = (*OUTPUTS, "rejected.jsonl", "screen.json")
    whole = {name: (tmp_path / "whole" / name).read_bytes() for name in names}
    summary = json.loads(whole["summary.json"])
    assert summary["rows"] == {"used": 12, "total": 13}
    assert b"again" not in whole["decisions.jsonl"]
    assert json.loads(whole["rejected.jsonl"]) == {
        "file": "rows.jsonl", "line": None,
        "reason": "row_id again: repeats row_id row-000004 (similarity 1.000); --duplicates flag "
                  "keeps it"}
    assert json.loads(whole["screen.json"])["duplicates"] == 1
    assert not (tmp_path / "out" / "refined.parquet").exists()
    command("--merge", "--output_dir", "out")
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == whole[name], name
    assert "shard: null" in (tmp_path / "out/config.yaml").read_text()
    for number in "12":
        command(*options, "--output_dir", "out", "--shard", f"{number}/2", "--overwrite", "--tau", "0.7")
    command("--merge", "--output_dir", "out", code=2)  # the shards are of other options now
    assert (tmp_path / "out/decisions.jsonl").read_bytes() == whole["decisions.jsonl"]
    command("--merge", "--output_dir", "out", "--overwrite")
    shard = tmp_path / "out" / "shards" / "2-of-2" / "screen.json"
    shard.write_text(shard.read_text().replace("again", "other"))
    command("--merge", "true", "--output_dir", "out", code=2)
