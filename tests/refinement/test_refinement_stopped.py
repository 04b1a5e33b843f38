"""Runs that fail, are interrupted or killed: they say why, end in the same files, and pay once."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from faults import calls, fault
from refinement_stubs import OUTPUTS, StubEngine, rows_of, run, run_slowly
from tiny import make_model, make_tokenizer
from transformers import GenerationConfig

from raft_fast.engines import OF_ONE_REQUEST, Reply, asking
from raft_fast.engines.asking import PATIENCE, STREAK, Part
from raft_fast.engines.generation import Batch
from raft_fast.engines.hf import HFEngine
from raft_fast.engines.journal import Journal, Stopped
from raft_fast.models.chat import Chat
from raft_fast.refinement import Roles, answers
from raft_fast.run import errors
from raft_fast.run.errors import UserError

ROWS = 70
HERE = Path(__file__).parent


def writer(answer=lambda text, seed: f"rewrite of {text[-20:]}"):
    return StubEngine("writer", answer)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(answers, "BLOCK_ROWS", 8)


def test_the_failure_is_raised_and_not_that_others_were_stopped_by_it():
    stopped = threading.Event()

    def work(item):
        if item == 0:  # the failing block stops the run, and is the last to end
            stopped.set()
            time.sleep(0.1)
            raise UserError("zero")
        assert stopped.wait(10)
        raise Stopped

    with pytest.raises(UserError, match="zero"):
        list(asking.at_once(work, range(3), 3, lambda: None))


def test_a_second_ctrl_c_waits_for_nobody():
    hangs, main, start = threading.Event(), threading.main_thread().ident, time.monotonic()

    def interrupt():
        threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()

    interrupt()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(asking.at_once(lambda item: hangs.wait(20), range(3), 3, interrupt))
        assert time.monotonic() - start < 10
    finally:
        hangs.set()


def test_a_judge_that_dies_in_the_middle_stops_the_run_and_is_quoted(tmp_path, small_blocks):
    calls = threading.Semaphore(20)

    def dies(text, seed):
        return 0.9 if calls.acquire(blocking=False) else Reply("", error="out of memory 17")

    judge = StubEngine("dying", dies)
    mixed = Roles(writer(), writer(), [StubEngine("well", lambda text, seed: 0.9), judge])
    with pytest.raises(UserError, match=f"--judge dying: the last {STREAK} replies .*memory 17"):
        run(tmp_path, rows_of(1000), mixed, fusion_rounds=1, quorum=1)
    assert len(judge.asked) < 20 + STREAK + 8 * answers.BLOCKS_AT_ONCE  # far from 1000
    assert not (tmp_path / "refined.parquet").exists()


def test_refusals_of_single_requests_do_not_end_a_run_before_the_first_answer(tmp_path):
    heard = Part("--judge", writer(), Journal(tmp_path))
    for error in (f"{start} (17)" for start in OF_ONE_REQUEST * PATIENCE):
        heard.listen(Reply("", error=error), True)
    with pytest.raises(UserError, match=f"none of {len(OF_ONE_REQUEST) * PATIENCE} replies"):
        heard.must_have_worked()
    heard.listen(Reply("x"), False)  # an answer of an earlier run is one
    heard.must_have_worked()


def test_ctrl_c_ends_an_in_process_model_within_a_token_and_keeps_its_whole_replies(
        tmp_path, small_blocks, monkeypatch):
    """Four blocks share the model: the batch that is drawn ends, and those that wait for it never begin."""
    chat = Chat(make_tokenizer(), GenerationConfig(eos_token_id=list(range(2, 260, 2))))
    options = {"fusion_rounds": 0, "rewrite_temperature": 1.0, "rewrite_max_new_tokens": 6,
               "supervision_gap": False}

    def engine():
        return HFEngine(make_model(), chat, "tiny", batch_size=4)

    run(tmp_path / "whole", rows_of(32), Roles(engine()), **options)
    own, tokens, asked = Batch.step, [], engine()
    stopped = asked._stopped

    def interrupted(batch):
        tokens.append(batch)
        if len(tokens) == 8:
            os.kill(os.getpid(), signal.SIGINT)
            assert stopped.wait(20)
        return own(batch)

    monkeypatch.setattr(Batch, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", rows_of(32), Roles(asked), **options)
    assert len(tokens) == 8
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(errors.WORKER)]
    kept = (tmp_path / "cut/journal.jsonl").read_text().splitlines()
    assert 0 < len(kept) < 16
    run(tmp_path / "cut", rows_of(32), Roles(engine()), **options)
    cut, whole = ((tmp_path / name / "journal.jsonl").read_text().splitlines() for name in ("cut", "whole"))
    assert cut[: len(kept)] == kept
    assert texts(cut) == texts(whole)


def texts(lines):
    return {line["key"]: line["reply"]["text"] for line in map(json.loads, lines) if "key" in line}


def start(folder):
    search = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen([sys.executable, HERE / "refinement_stubs.py", folder, str(ROWS), "0.004"],
                            env={**os.environ, "PYTHONPATH": search}, stderr=subprocess.PIPE)


def send(process, folder, lines, how):
    """Send the signal once the journal has so many lines more than now."""
    journal = folder / "journal.jsonl"
    before = journal.read_bytes().count(b"\n") if journal.exists() else 0
    while process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") >= before + lines:
            process.send_signal(how)
            break
        time.sleep(0.001)
    return process.communicate(timeout=60)[1].decode(), process.returncode


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run_slowly(folder, ROWS, 0.0)
    return folder


def assert_same(folder, whole):
    for name in OUTPUTS:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


def requests(folder):
    return Counter((folder / "asked.txt").read_text().splitlines())


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_files(tmp_path, whole):
    moments = random.Random(7)
    for _ in range(3):
        _, code = send(start(tmp_path), tmp_path, moments.randrange(1, 90), signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert not (tmp_path / "refined.parquet").exists()
    process = start(tmp_path)
    assert process.wait(60) == 0, process.stderr.read()
    assert_same(tmp_path, whole)
    once, asked = requests(whole), requests(tmp_path)
    assert set(asked) == set(once)
    failures = sum(json.loads(line).get("reply", {}).get("error") is not None
                   for line in (tmp_path / "journal.jsonl").read_text().splitlines())
    # in flight when killed, or failed before: what a run that is cut short could not get is asked again
    assert asked.total() - once.total() <= 3 * answers.BLOCKS_AT_ONCE + failures
    assert all(count == 1 for count in once.values())


def test_a_run_that_found_the_disk_full_ends_in_the_same_files(tmp_path, monkeypatch):
    """At any call: after room has been made the same command goes on."""
    few = 3
    run_slowly(tmp_path / "whole", few, 0.0)
    with calls(tmp_path / "seen", monkeypatch) as seen:
        run_slowly(tmp_path / "seen", few, 0.0)
    for at, call in enumerate(seen):
        full, folder = OSError(errno.ENOSPC, "No space left on device"), tmp_path / f"run-{at}"
        with suppress(OSError), fault(folder, monkeypatch, at, full):
            run_slowly(folder, few, 0.0)
        run_slowly(folder, few, 0.0)
        for name in OUTPUTS:
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (name, call)


def test_ctrl_c_leaves_the_decided_rows_under_other_names_and_the_run_goes_on(tmp_path, whole):
    said, code = send(start(tmp_path), tmp_path, 250, signal.SIGINT)
    assert code == 130, said
    assert "interrupted: finished work is on disk; run the same command again" in said
    assert not any((tmp_path / name).exists() for name in OUTPUTS)
    there = pq.read_table(tmp_path / "refined.partial.parquet").to_pylist()
    everything = pq.read_table(whole / "refined.parquet").to_pylist()
    assert 0 < len(there) < ROWS
    assert [one for one in everything if one in there] == there  # as they will be, in their order
    assert start(tmp_path).wait(60) == 0
    assert_same(tmp_path, whole)
    assert not list(tmp_path.glob("*.partial*"))
