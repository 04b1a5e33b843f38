"""Faults at file-system calls: the n-th one below a folder raises, as a kill or a full disk would."""

import os
import sys
from contextlib import contextmanager

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
_listeners = []


class Killed(BaseException):
    """Stands for kill -9: no `except Exception` may tidy up after it."""


def _hear(event, arguments):
    if event in EVENTS:
        for listener in list(_listeners):
            listener(event, arguments[0])


# a hook cannot be taken away again, so there is one, idle without listeners
sys.addaudithook(_hear)


@contextmanager
def calls(folder, monkeypatch):
    """Lists the (event, path) of every file-system call below `folder`, fsync included."""
    seen = []
    with listening(folder, monkeypatch, lambda *call: seen.append(call)):
        yield seen


@contextmanager
def fault(folder, monkeypatch, at, error, events=EVENTS | {"fsync"}):
    """Raise `error` at call number `at` (from 0); yields a list that holds the call that failed."""
    seen, failed = [], []

    def listen(event, path):
        if event in events and not failed:
            if len(seen) == at:
                failed.append((event, path))
                raise error
            seen.append(path)

    with listening(folder, monkeypatch, listen):
        yield failed


@contextmanager
def listening(folder, monkeypatch, listen):
    real = os.fsync

    def fsync(descriptor):
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        hear("fsync", os.readlink(f"/proc/self/fd/{number}"))
        real(descriptor)

    def hear(event, path):
        below = isinstance(path, str | os.PathLike) and str(path).startswith(str(folder))
        relative = isinstance(path, str) and not os.path.isabs(path)  # how rmtree removes
        if below or relative:
            listen(event, str(path))

    _listeners.append(hear)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            yield
    finally:
        _listeners.remove(hear)
