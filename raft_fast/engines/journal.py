"""The journal: every reply ever paid for, on disk before it is used, never asked for twice.

One JSON line a reply in DIR/journal.jsonl, appended as replies finish. A key is the content of the
request, so a changed option asks only for what it changes. Replies stay on disk; memory holds one
block's worth.
"""

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from raft_fast.data.texts import Message
from raft_fast.engines import Engine, Reply, Sampling, WindDown
from raft_fast.engines.base import valid
from raft_fast.run.errors import UserError
from raft_fast.run.files import DiskMap

FILE = "journal.jsonl"
NOT_ASKED = "not asked: the run was stopped"
FINISHED = {"finished": True}  # the last line of a run that came to its end
SCORED = ("judge", "nll")  # kinds whose replies older journals hold as JSON
KEY_BYTES = 16
FSYNC_SECONDS = 1.0  # a killed process loses nothing; a power cut at most this much
READ_BYTES = 8192
_REPLY_FIELDS = {field.name for field in fields(Reply)} - {"key"}


class Stopped(Exception):  # noqa: N818 - nothing is wrong
    """The run ends: nothing more is asked for."""


Answers = Iterator[tuple[int, Reply]]
Listener = Callable[[Reply, bool], None]
"""Called with every distinct request's reply, and whether an engine gave it just now."""


class Journal:
    """An append-only cache of replies, owned by one process at a time. Use as a context manager.

    Several threads may ask at once; what one of them is asking for, another waits for. `asked`, `cached`
    and `failed` count the distinct requests that went to an engine, those that did not have to, and those
    that failed; `damaged` counts unreadable lines (what they held is asked for again).

    Failures are written too: a finished run does not ask for them again, unless `retry_failed`. What failed
    in a run that was cut short is asked again.
    """

    def __init__(self, folder: Path, retry_failed: bool = False) -> None:
        """Open or create the journal of `folder`. Raises UserError if another process has it open."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self._file = LineFile(self.path)
        self.asked = self.cached = self.failed = self.damaged = 0
        self._lines = DiskMap()  # key -> where its line begins
        self._asking: dict[bytes, threading.Event] = {}
        self._engines: list[Engine] = []  # all that were asked
        self._lock = threading.Lock()
        self._stop, self._replaying = threading.Event(), False
        self._closed = self._hurry = False
        try:
            end, self.damaged = _scan(self.path, self._lines.__setitem__, retry_failed)
            self._file.begin(end)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Close; a block that ended without an error is a finished run."""
        with self._lock:  # threads that were left behind may still come with a reply
            self._closed = True
            try:
                if error is None and self.asked:
                    self._file.append(FINISHED)
            finally:
                self._lines.close()
                self._file.close()

    def stop(self, why: BaseException | None = None) -> None:
        """Ask for nothing more: every `ask` under way or to come raises Stopped, after writing down what its
        engine has in flight. If the user or the system wants to leave (`why` is no Exception), that is only
        what comes at once."""
        self._hurry |= why is not None and not isinstance(why, Exception)
        self._stop.set()  # first: a call that does not see it is one that the engine knows of
        with self._lock:
            engines = list(self._engines)
        for engine in engines:
            if (interrupt := getattr(engine, "interrupt", None)) is not None:
                interrupt(self._last_word())

    def replay(self) -> None:
        """From now on `ask` answers from the journal alone and waits for nobody; what is missing has the
        error NOT_ASKED."""
        self._replaying = True

    def ask(
        self, kind: str, engine: Engine, conversations: Sequence[list[Message]],
        sampling: Sampling | None, prompt_version: str, listen: Listener,
    ) -> list[Reply]:
        """Replies to the conversations, in order, with their journal keys; only missing ones are asked for.

        Equal conversations are asked once. `sampling` None asks for a score (`Engine.score`).
        Whatever stops the engine or `listen`, the replies it gave before are in the journal.
        """
        keys = [request_key(kind, engine.identity, messages, sampling, prompt_version)
                for messages in conversations]
        first: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            first.setdefault(key, place)
        mine, known, awaited = self._share_out(first)
        replies: dict[bytes, Reply] = {}

        def take(keys: Iterable[bytes]) -> None:
            for key in keys:
                replies[key] = self._known(key)
                listen(replies[key], False)

        try:
            take(known)  # first: that an engine worked once says more than that it fails now
            if mine:
                with self._lock:
                    if not any(engine is known for known in self._engines):
                        self._engines.append(engine)
                todo = [conversations[first[key]] for key in mine]
                answers = engine.score(todo) if sampling is None else engine.generate(todo, sampling)
                self._hear(answers, listen, lambda index, reply: replies.update({
                    mine[index]: self._record(mine[index], kind, engine.identity, reply)}))
        finally:
            with self._lock:
                for key in mine:
                    self._asking.pop(key).set()
        take(awaited)
        return [replies[key] for key in keys]

    def _share_out(self, keys: Iterable[bytes]) -> tuple[list[bytes], list[bytes], list[bytes]]:
        """(those this call has to ask for, those that are known, those that another call asks for)."""
        mine, known, awaited = [], [], []
        with self._lock:
            for key in keys:
                if self._replaying or self._lines.get(key) is not None:
                    known.append(key)
                elif key in self._asking:
                    awaited.append(key)
                else:
                    self._asking[key] = threading.Event()
                    mine.append(key)
            self.cached += len(known) + len(awaited)
        return mine, known, awaited

    def _hear(self, answers: Answers, listen: Listener, note: Callable[[int, Reply], None]) -> None:
        """Note every reply down before it is listened to, also those that come after the last word."""
        try:
            if self._stop.is_set():
                raise Stopped
            for index, reply in answers:
                note(index, reply)
                listen(reply, True)
                if self._stop.is_set():
                    raise Stopped
        except BaseException as error:
            for index, reply in _in_flight(answers, self._last_word()):
                note(index, reply)
            if self._stop.is_set() and isinstance(error, KeyboardInterrupt):
                raise Stopped from None  # the engine was told to end; why is known to whoever called `stop`
            raise

    def _last_word(self) -> KeyboardInterrupt:
        """What ends an engine's call (see `Engine`)."""
        return KeyboardInterrupt() if self._hurry else WindDown()

    def _record(self, key: bytes, kind: str, identity: str, reply: Reply) -> Reply:
        told = {name: value for name, value in vars(reply).items()
                if name != "key" and (name != "score" or value is not None or kind in SCORED)}
        line = {"key": key.hex(), "kind": kind, "engine": identity, "reply": told}
        with self._lock:
            if self._closed:
                raise Stopped
            self._lines[key] = self._file.append(line)
            self.asked += 1
            self.failed += reply.error is not None
        return recorded(line)

    def _known(self, key: bytes) -> Reply:
        """The reply on disk, as soon as it is there."""
        with self._lock:
            start, asking = self._lines.get(key), self._asking.get(key)
        if start is None and self._replaying:
            return Reply("", error=NOT_ASKED, key=key.hex())
        if start is None and asking is not None:
            asking.wait()
            with self._lock:
                start = self._lines.get(key)
        if start is None:  # whoever asked for it failed or was stopped
            raise Stopped
        return recorded(self._file.read(start))


def _in_flight(answers: Answers, last_word: KeyboardInterrupt) -> Answers:
    """What an engine that is interrupted still hands over (see `Engine`): it is paid for."""
    if not isinstance(answers, Generator):
        return
    try:
        yield answers.throw(last_word)
        yield from answers
    except (KeyboardInterrupt, StopIteration, UserError):
        return


def request_key(kind: str, identity: str, messages: list[Message], sampling: Sampling | None,
                prompt_version: str) -> bytes:
    """The key of a request: a hash of everything that shapes its reply."""
    request: list[Any] = [kind, identity, messages, vars(sampling) if sampling else None, prompt_version]
    text = json.dumps(request, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()[:KEY_BYTES]


def recorded(line: dict[str, Any]) -> Reply:
    """The reply in a journal line. Raises KeyError, TypeError, ValueError or AttributeError if it cannot be
    used; half characters in its text are replaced.

    Older journals hold scores and likelihoods as JSON in the text: {"score": s, "reply": text} or
    {"nats": sum, "tokens": count}.
    """
    values = {name: value for name, value in line["reply"].items() if name in _REPLY_FIELDS}
    for name in ("prompt_tokens", "completion_tokens"):
        if not isinstance(values.get(name, 0), int):
            raise TypeError(name)
    for name in ("text", "error"):
        if values.get(name) is not None:
            values[name] = valid(values[name])
    reply = Reply(**values, key=line["key"])
    if line.get("kind") not in SCORED or reply.error is not None or "score" in values:
        return reply
    old = json.loads(reply.text)
    if line["kind"] == "nll":
        return replace(reply, text="", score=float(old["nats"]), completion_tokens=int(old["tokens"]))
    return replace(reply, text=old.get("reply", ""), score=float(old["score"]))


def _scan(path: Path, remember: Callable[[bytes, int], None], retry_failed: bool) -> tuple[int, int]:
    """Call `remember` with every key and where its line begins.

    Failures count if the run that noted them came to its end, and not with `retry_failed`. Returns
    where the last whole line ends and how many lines cannot be read, a cut last one among them.
    """
    end = damaged = 0
    failures: dict[bytes, int] = {}  # since a run last came to its end
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):  # a write that a crash or a full disk cut short
                return end, damaged + 1
            start, end = end, end + len(line)
            try:
                entry = json.loads(line)
                if entry == FINISHED:
                    for key, place in ({} if retry_failed else failures).items():
                        remember(key, place)
                    failures = {}
                    continue
                key, failed = bytes.fromhex(entry["key"]), recorded(entry).error is not None
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                damaged += 1
                continue
            if failed:
                failures[key] = start
            else:
                remember(key, start)
    return end, damaged


class LineFile:
    """A file of JSON lines that only grows: one process at a time writes it, threads read it by place.

    Lines are handed to the system as soon as they are appended, and are on the disk within a second.
    `append` is for one thread at a time; the owner locks.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises UserError if another process has it open."""
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
        """Cut what is behind `end`; new lines follow it."""
        os.ftruncate(self._file, end)
        self.end = end
        self._syncer.start()

    def append(self, line: dict[str, Any]) -> int:
        """Returns where the line begins. Nothing waits in a buffer of a process that may die.

        Raises OSError for a disk that is full or failed, also if it failed after an earlier line.
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
        return dict(json.loads(line))

    def close(self) -> None:
        """Sync all lines to the disk and let other processes open the file."""
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
            except OSError as error:  # the system reports it once: whoever appends next raises it
                self._trouble = error
                return
