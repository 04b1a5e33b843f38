"""Errors of a user are one line and an exit code; bugs keep their traceback."""

import errno
import subprocess
import sys
from unittest.mock import Mock

import pytest

from raft_fast.run.errors import UserError, entry


@pytest.mark.parametrize(("error", "code", "line"), [
    (UserError("--data x:\n no such file"), 2, "error: --data x: no such file\n"),
    (OSError(errno.ENOSPC, "No space left", "/out/a"), 2, "No space left on device at /out/a"),
    (RuntimeError("I/O: No space left on device (os error 28)"), 2, "No space left on device: make"),
    (KeyboardInterrupt(), 130, "run the same command again"),
])
def test_an_entry_says_one_line_and_exits(capsys, error, code, line):
    with pytest.raises(SystemExit) as stop:
        entry(Mock(side_effect=error, __name__="main"))()
    assert stop.value.code == code
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
    with pytest.raises(KeyError):  # of a bug
        entry(lambda: {}["bug"])()


LEAVING = """
import os, signal, threading
from raft_fast.run.errors import WORKER, entry

@entry
def main():
    threading.Thread(target=threading.Event().wait, daemon=True, name=WORKER).start()
    print("in a buffer", end="")
    os.kill(os.getpid(), signal.SIGTERM)

try:
    main()
finally:
    os.abort()  # as the interpreter does that ends under a model"""


def test_a_signal_ends_a_program_whose_engine_is_still_at_work():
    done = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "in a buffer")
    assert "stopped by SIGTERM" in done.stderr
