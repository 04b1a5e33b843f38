"""A file of JSON lines that only grows: one process at a time writes it, threads read it by place."""

import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any

from raft_fast.run.errors import UserError

FSYNC_SECONDS = 1.0  # a killed process loses nothing; a power cut at most this much
READ_BYTES = 8192


class LineFile:
    """Lines are on their way to the disk as soon as they are appended, and on it within a second. `append`
    is for one thread at a time; the owner locks."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises UserError where another process has it open."""
        self.path, self.end = path, 0
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._trouble: OSError | None = None
        self._closing, self._syncer = threading.Event(), threading.Thread(target=self._sync, daemon=True)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise UserError(f"{path}: another process is refining into this folder; wait for it to end or "
                            "choose another --output_dir") from None

    def begin(self, end: int) -> None:
        """What is behind `end` goes, new lines follow it."""
        os.ftruncate(self._file, end)
        self.end = end
        self._syncer.start()

    def append(self, line: dict[str, Any]) -> int:
        """Where the line begins. Nothing waits in a buffer of a process that may die.

        Raises OSError for a disk that is full or failed, also where it did so after an earlier line.
        """
        if self._trouble is not None:
            raise self._trouble
        text = (json.dumps(line) + "\n").encode()
        start, rest = self.end, memoryview(text)
        try:
            while rest:
                rest = rest[os.write(self._file, rest):]
        except OSError:
            os.ftruncate(self._file, start)  # half a line would spoil the next one
            raise
        self.end += len(text)
        return start

    def read(self, start: int) -> dict[str, Any]:
        """The line that begins there."""
        line = b""
        while not line.endswith(b"\n"):
            if not (part := os.pread(self._file, READ_BYTES, start + len(line))):
                raise UserError(f"{self.path}: was cut by somebody else; run the same command again")
            line += part[: part.find(b"\n") + 1] or part
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """All lines are on the disk; another process may open the file."""
        self._closing.set()
        if self._syncer.is_alive():
            self._syncer.join()
        try:
            os.fsync(self._file)
            if self._trouble is not None:
                raise self._trouble
        finally:
            os.close(self._file)  # also gives the lock back

    def _sync(self) -> None:
        while not self._closing.wait(FSYNC_SECONDS):
            try:
                os.fsync(self._file)
            except OSError as error:  # the system tells it once: whoever appends next hears of it
                self._trouble = error
                return
