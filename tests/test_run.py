"""Run folders and error lines."""

import errno
import json
import subprocess
import sys

import pytest

from raft_fast.errors import UserError, entry
from raft_fast.options import DataOptions, TrainOptions
from raft_fast.progress import Reporter
from raft_fast.run import open_run, pin_inputs, save_costs


def test_a_run_goes_on_with_the_same_configuration_only(tmp_path):
    folder = tmp_path / "run"
    assert open_run(folder, [TrainOptions(), DataOptions(output_dir="a")]) is False
    (folder / "metrics.jsonl").write_text("")
    elsewhere = TrainOptions(vllm_server_base_url="http://other:8000")
    assert open_run(folder, [elsewhere, DataOptions(output_dir="b")]) is True
    with pytest.raises(UserError, match=r"learning_rate is 5e-06 there and 0\.1 here"):
        open_run(folder, [TrainOptions(learning_rate=0.1), DataOptions()])
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "metrics.jsonl"]


def test_a_run_from_before_an_option_goes_on_with_its_default(tmp_path):
    folder = tmp_path / "run"
    open_run(folder, [TrainOptions()])
    (folder / "metrics.jsonl").write_text("")
    lines = (folder / "config.yaml").read_text().splitlines(keepends=True)
    older = [line for line in lines if not line.startswith("teacher_top_k")]
    (folder / "config.yaml").write_text("".join(older))
    assert open_run(folder, [TrainOptions()]) is True
    with pytest.raises(UserError, match="teacher_top_k is 512 there and 7 here"):
        open_run(folder, [TrainOptions(teacher_top_k=7)])


def test_changed_inputs_are_refused_once_a_run_has_cost_anything(tmp_path):
    pin_inputs(tmp_path, {"the data": "a"})
    pin_inputs(tmp_path, {"the data": "b"})  # nothing paid for yet
    pin_inputs(tmp_path, {"the model": "m"})  # known later than the data, beside it
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="the data changed since"):
        pin_inputs(tmp_path, {"the data": "c"})
    with pytest.raises(UserError, match="the model changed since"):
        pin_inputs(tmp_path, {"the data": "b", "the model": "n"})


def test_answers_to_go_on_with_are_named_only_where_there_are_some(tmp_path):
    open_run(tmp_path, [TrainOptions()])
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=r"or the same options$"):
        open_run(tmp_path, [TrainOptions(heldout=0.5)])
    (tmp_path / "refine").mkdir()
    (tmp_path / "refine/refined.parquet").touch()
    with pytest.raises(UserError, match=r"the same options\. Answers .*: --data .*/refine/refined\.parquet$"):
        open_run(tmp_path, [TrainOptions(heldout=0.5)])


def test_a_typo_does_not_claim_the_folder(tmp_path):
    open_run(tmp_path, [DataOptions(data="nope.jsonl")])
    assert open_run(tmp_path, [DataOptions(data="rows.jsonl")]) is False


def test_an_output_dir_that_is_a_file(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="is a file"):
        open_run(tmp_path / "x", [TrainOptions()])


def test_costs_add_up_over_restarts(tmp_path):
    for _ in range(2):
        reporter = Reporter()
        with reporter.phase("train"):
            pass
        save_costs(tmp_path, reporter)
    (cost,) = json.loads((tmp_path / "phases.json").read_text())
    assert cost["name"] == "train"
    assert cost["peak_bytes"] > 10**6


@pytest.mark.parametrize(("error", "code", "line"), [
    (UserError("--data x:\n no such file"), 2, "error: --data x: no such file\n"),
    (OSError(errno.ENOSPC, "No space left on device", "/out/a"), 2, "No space left on device at /out/a"),
    (RuntimeError("I/O: No space left on device (os error 28)"), 2, "No space left on device: make"),
    (KeyboardInterrupt(), 130, "run the same command again"),
])
def test_an_entry_says_one_line_and_exits(capsys, error, code, line):
    @entry
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == code
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_a_bug_keeps_its_traceback():
    @entry
    def main():
        raise KeyError("bug")

    with pytest.raises(KeyError):
        main()


LEAVING = """
import os, signal, threading
from raft_fast.errors import WORKER, entry

@entry
def main():
    threading.Thread(target=threading.Event().wait, daemon=True, name=WORKER).start()
    print("in a buffer", end="")
    os.kill(os.getpid(), signal.SIGTERM)

try:
    main()
finally:
    os.abort()  # as the interpreter does that ends under a model
"""


def test_a_signal_ends_a_program_whose_engine_is_still_at_work():
    done = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "in a buffer")
    assert "stopped by SIGTERM" in done.stderr
