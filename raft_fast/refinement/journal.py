"""The journal: every reply ever paid for, on disk before it is used, never asked for twice.

One JSON line a reply in DIR/journal.jsonl, successes only, appended as replies finish. A key is the
content of the request, so a changed option asks only for what it changes.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from raft_fast.engines import Engine, Message, Reply, Sampling
from raft_fast.errors import UserError

FILE = "journal.jsonl"
FSYNC_SECONDS = 1.0  # a killed process loses nothing; a power cut at most this much


class Journal:
    """An append-only cache of replies, owned by one process at a time. Use as a context manager.

    `asked` and `cached` count the distinct requests that went to an engine and those that did not
    have to; `damaged` counts lines that could not be read (what they held is asked for again).
    """

    def __init__(self, folder: Path) -> None:
        """Open or create the journal of `folder`.

        Raises UserError where another process has it open.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self.asked = self.cached = self.damaged = 0
        self._replies: dict[str, Reply] = {}
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._synced = time.monotonic()
        try:
            self._lock()
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)  # also gives the lock back

    def ask(
        self, kind: str, engine: Engine, conversations: Sequence[list[Message]],
        sampling: Sampling | None, prompt_version: str, advance: Callable[[int], None],
    ) -> list[Reply]:
        """Replies to the conversations, in order; the engine is asked only for what is missing.

        Equal conversations are asked once. `sampling` None asks for a score (`Engine.score`).
        `advance(n)` is told of every n conversations answered. A reply with an error is returned
        but not kept, so that the next run asks again. Whatever stops the engine, the replies it
        gave before are in the journal.
        """
        keys = [_key(kind, engine.identity, messages, sampling, prompt_version)
                for messages in conversations]
        places: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        missing = [key for key in places if key not in self._replies]
        self.cached += len(places) - len(missing)
        advance(sum(len(where) for key, where in places.items() if key in self._replies))
        failed: dict[str, Reply] = {}
        if missing:
            todo = [conversations[places[key][0]] for key in missing]
            answers = engine.score(todo) if sampling is None else engine.generate(todo, sampling)
            for index, reply in answers:
                key = missing[index]
                self.asked += 1
                if reply.error is None:
                    self._append(key, kind, engine.identity, reply)
                else:
                    failed[key] = reply
                advance(len(places[key]))
        return [failed[key] if key in failed else self._replies[key] for key in keys]

    def _append(self, key: str, kind: str, identity: str, reply: Reply) -> None:
        line = {"key": key, "kind": kind, "engine": identity, "reply": asdict(reply)}
        rest = memoryview((json.dumps(line) + "\n").encode())
        while rest:  # straight to the kernel: nothing waits in a buffer of a process that may die
            rest = rest[os.write(self._file, rest):]
        self._replies[key] = reply
        if time.monotonic() - self._synced >= FSYNC_SECONDS:
            os.fsync(self._file)
            self._synced = time.monotonic()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self.path}: another process is refining into this folder; wait for "
                            "it to end or choose another --output_dir") from None

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # a write that a crash or a full disk cut short
            os.ftruncate(self._file, whole)
        for line in content[:whole].splitlines():
            try:
                entry = json.loads(line)
                self._replies[entry["key"]] = Reply(**entry["reply"])
            except (ValueError, TypeError, KeyError):
                self.damaged += 1


def _key(
    kind: str, identity: str, messages: list[Message], sampling: Sampling | None,
    prompt_version: str,
) -> str:
    request: list[Any] = [kind, identity, messages, asdict(sampling) if sampling else None,
                          prompt_version]
    text = json.dumps(request, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
