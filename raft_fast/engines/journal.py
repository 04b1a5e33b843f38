"""The journal: every reply ever paid for, a JSON line each, on disk before it is used, asked for once.

A key is the content of the request, so a changed option asks only for what it changes."""

import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from raft_fast.data.texts import Message
from raft_fast.engines import Engine, Replies, Reply, Sampling
from raft_fast.run.errors import UserError

FILE = "journal.jsonl"
FINISHED = {"finished": True}  # the last line of a run that came to its end
KEY_BYTES = 16
FSYNC_SECONDS = 1.0  # a killed process loses nothing; a power cut the replies of about a second
_REPLY_FIELDS = {field.name for field in fields(Reply)} - {"key"}


class Stopped(Exception):  # noqa: N818 - nothing is wrong
    """The run ends: nothing more is asked for."""


Listener = Callable[[Reply, bool], None]
"""Called with every distinct request's reply, and whether an engine gave it just now."""


class Journal:
    """An append-only cache of replies in a folder, of one process at a time. Use as a context manager.

    Several threads may ask at once; what one of them is asking for, another waits for. `asked` and `failed`
    count the distinct requests that went to an engine, and those of them that failed; `damaged` counts
    unreadable lines (what they held is asked for again). A finished run does not ask for its failures again,
    unless `retry_failed`; one that was cut short does."""

    def __init__(self, folder: Path, retry_failed: bool = False) -> None:
        """Raises UserError if another process has the journal open."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self.asked = self.failed = self.damaged = 0
        self._asking: dict[bytes, Future[Reply]] = {}
        self._places: dict[bytes, int] = {}  # key -> where its line begins
        self._engines: list[Any] = []  # those that were asked and can be interrupted
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._closed, self._end, self._synced = False, 0, time.monotonic()
        self._file = self.path.open("ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._reader = self.path.open("rb")
            self._scan(retry_failed)
            self._file.truncate(self._end)
        except BaseException as error:
            self._file.close()  # gives the lock back
            if not isinstance(error, BlockingIOError):
                raise
            raise UserError(f"{self.path}: another process is refining into this folder; wait for it to end "
                            "or choose another --output_dir") from None

    def _scan(self, retry_failed: bool) -> None:
        """Find every reply, to the last whole line."""
        failures: dict[bytes, int] = {}  # since a run last came to its end
        for line in self._reader:
            if not line.endswith(b"\n"):  # a write that a crash or a full disk cut short
                self.damaged += 1
                return
            start, self._end = self._end, self._end + len(line)
            try:
                entry = json.loads(line)
                if entry != FINISHED:
                    key, failed = bytes.fromhex(entry["key"]), _reply(entry).error is not None
                    (failures if failed else self._places)[key] = start
                    if not failed:  # an interrupted run's failure was asked for again
                        failures.pop(key, None)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                self.damaged += 1
                continue
            if entry == FINISHED:
                for key, place in ({} if retry_failed else failures).items():
                    self._places[key] = place
                failures = {}

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Close; a block that ended without an error is a finished run."""
        with self._lock:  # threads that were left behind may still come with a reply
            self._closed = True
            try:
                if error is None and self.asked:
                    self._append(FINISHED)
                os.fsync(self._file)
            finally:
                for one in (self._reader, self._file):  # the last gives the lock back
                    one.close()

    def stop(self) -> None:
        """From now on every `ask`, under way too, raises Stopped, once what is in flight is written."""
        self._stop.set()  # first: a call that does not see it is one that the engine knows of
        with self._lock:
            engines = list(self._engines)
        for engine in engines:
            engine.interrupt()

    def ask(self, kind: str, engine: Engine, conversations: Sequence[list[Message]],
            sampling: Sampling | None, prompt_version: str,
            listen: Listener = lambda *_: None) -> list[Reply]:
        """Replies to the conversations, in order, with their journal keys; only missing ones are asked for,
        equal ones once. `sampling` None asks for a score (`Engine.score`). Whatever stops the engine or
        `listen`, the replies it gave before are in the journal."""
        keys = [request_key(kind, engine.identity, messages, sampling, prompt_version)
                for messages in conversations]
        asked = dict(zip(keys, conversations, strict=True))
        futures: dict[bytes, Future[Reply]] = {}
        mine: dict[bytes, Future[Reply]] = {}  # what this call asks for
        with self._lock:
            if hasattr(engine, "interrupt") and not any(engine is one for one in self._engines):
                self._engines.append(engine)
            for key in asked:
                if key in self._asking:  # another call asks for it
                    futures[key] = self._asking[key]
                    continue
                futures[key] = Future()
                if (place := self._places.get(key)) is not None:
                    futures[key].set_result(self._read(place))
                else:
                    mine[key] = self._asking[key] = futures[key]
        known = {key: future for key, future in futures.items() if future.done()}
        try:
            for key in known:  # first: that an engine worked once says more than that it fails now
                listen(futures[key].result(), False)
            if mine:
                order, todo = list(mine), [asked[key] for key in mine]
                answers = engine.score(todo) if sampling is None else engine.generate(todo, sampling)
                self._hear(answers, listen, lambda index, reply: self._record(
                    order[index], kind, engine.identity, reply))
        finally:
            with self._lock:
                for key, future in mine.items():
                    del self._asking[key]
                    if not future.done():  # the engine failed or was stopped
                        future.set_exception(Stopped())
        for key in futures:
            if key not in mine and key not in known:
                listen(futures[key].result(), False)
        return [futures[key].result() for key in keys]

    def _hear(self, answers: Replies, listen: Listener, record: Callable[[int, Reply], Reply]) -> None:
        """Write every reply down before it is listened to, also those in flight when it ends."""
        try:
            if self._stop.is_set():
                raise Stopped
            for index, reply in answers:
                listen(record(index, reply), True)
                if self._stop.is_set():
                    raise Stopped
        except BaseException as error:
            for index, reply in _in_flight(answers):
                record(index, reply)
            if self._stop.is_set() and isinstance(error, KeyboardInterrupt):
                raise Stopped from None  # the engine was told to end; why is known to whoever called `stop`
            raise

    def _record(self, key: bytes, kind: str, identity: str, reply: Reply) -> Reply:
        told = {name: value for name, value in vars(reply).items() if name != "key"}
        reply = replace(reply, key=key.hex())
        with self._lock:
            if self._closed:
                raise Stopped
            self._places[key] = self._append(
                {"key": reply.key, "kind": kind, "engine": identity, "reply": told})
            self.asked += 1
            self.failed += reply.error is not None
            self._asking[key].set_result(reply)
        return reply

    def _append(self, line: dict[str, Any]) -> int:
        """Where the line begins, which waits in no buffer. Raises OSError for a full or failed disk."""
        start, rest = self._end, memoryview((json.dumps(line) + "\n").encode())
        self._end += len(rest)
        try:
            while rest:
                rest = rest[self._file.write(rest):]
            if time.monotonic() - self._synced > FSYNC_SECONDS:
                os.fsync(self._file)
                self._synced = time.monotonic()
        except OSError:
            self._file.truncate(start)  # half a line would spoil the next one
            self._end = start
            raise
        return start

    def _read(self, start: int) -> Reply:
        self._reader.seek(start)
        return _reply(json.loads(self._reader.readline()))


def _in_flight(answers: Replies) -> Replies:
    """What an engine that is interrupted still hands over (see `Engine`): it is paid for."""
    if not isinstance(answers, Generator):
        return
    try:
        yield answers.throw(KeyboardInterrupt())
        yield from answers
    except (KeyboardInterrupt, StopIteration, UserError):
        return


def request_key(kind: str, identity: str, messages: list[Message], sampling: Sampling | None,
                prompt_version: str) -> bytes:
    """The key of a request: a hash of everything that shapes its reply."""
    request: list[Any] = [kind, identity, messages, vars(sampling) if sampling else None, prompt_version]
    text = json.dumps(request, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()[:KEY_BYTES]


def _reply(line: dict[str, Any]) -> Reply:
    """The reply in a journal line. Raises KeyError, TypeError or AttributeError if it cannot be used."""
    told = {name: value for name, value in line["reply"].items() if name in _REPLY_FIELDS}
    return Reply(**told, key=line["key"])
