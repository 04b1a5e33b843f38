"""Runs that are killed or interrupted at random moments end in the same files, and pay once."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import stage1_process
from faults import calls, fault
from refinement_stubs import OUTPUTS

from raft_fast.refinement.pipeline import BLOCKS_AT_ONCE

ROWS = 70
HERE = Path(__file__).parent


def start(folder):
    search = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen([sys.executable, HERE / "stage1_process.py", folder, str(ROWS), "0.004"],
                            env={**os.environ, "PYTHONPATH": search}, stderr=subprocess.PIPE)


def stop(process, folder, lines, how):
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
    stage1_process.run(folder, ROWS, 0.0)
    return folder


def assert_same(folder, whole):
    for name in OUTPUTS:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


def requests(folder):
    return Counter((folder / "asked.txt").read_text().splitlines())


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_files(tmp_path, whole):
    moments = random.Random(7)
    for _ in range(3):
        _, code = stop(start(tmp_path), tmp_path, moments.randrange(1, 90), signal.SIGKILL)
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
    assert asked.total() - once.total() <= 3 * BLOCKS_AT_ONCE + failures
    assert all(count == 1 for count in once.values())


def test_a_run_that_found_the_disk_full_ends_in_the_same_files(tmp_path, monkeypatch):
    """At any call: after room has been made the same command goes on."""
    few = 3
    stage1_process.run(tmp_path / "whole", few, 0.0)
    with calls(tmp_path / "seen", monkeypatch) as seen:
        stage1_process.run(tmp_path / "seen", few, 0.0)
    for at, call in enumerate(seen):
        full, folder = OSError(errno.ENOSPC, "No space left on device"), tmp_path / f"run-{at}"
        with suppress(OSError), fault(folder, monkeypatch, at, full):
            stage1_process.run(folder, few, 0.0)
        stage1_process.run(folder, few, 0.0)
        for name in OUTPUTS:
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (name, call)


def test_ctrl_c_leaves_the_decided_rows_under_other_names_and_the_run_goes_on(tmp_path, whole):
    said, code = stop(start(tmp_path), tmp_path, 250, signal.SIGINT)
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
