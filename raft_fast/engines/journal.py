"""The journal: every reply ever paid for, on disk before it is used, never asked for twice.

One JSON line a reply in DIR/journal.jsonl, appended as replies finish. A key is the content of the
request, so a changed option asks only for what it changes. Replies stay on disk; what is in memory
is one block's worth.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from raft_fast.data.texts import Message
from raft_fast.engines import Engine, Reply, Sampling, WindDown
from raft_fast.engines.journal_lines import FINISHED, Recorded, recorded, request_key, scan
from raft_fast.run.diskmap import DiskMap
from raft_fast.run.errors import UserError
from raft_fast.run.line_file import LineFile

FILE = "journal.jsonl"
NOT_ASKED = "not asked: the run was stopped"


class Stopped(Exception):  # noqa: N818 - nothing is wrong
    """The run ends: what is missing is not asked for any more."""


Listener = Callable[[Reply, bool], None]
"""Told of every distinct request's reply, and whether an engine gave it just now."""


class Journal:
    """An append-only cache of replies, owned by one process at a time. Use as a context manager.

    May be asked from several threads at once; what one of them is asking for, another waits for.
    `asked`, `cached` and `failed` count the distinct requests that went to an engine, those that did
    not have to, and those an engine had no answer to; `damaged` counts lines that could not be read
    (what they held is asked for again).

    Failures are written too, as failures: a run that came to its end is not asked again for what it
    could not get, unless `retry_failed`. What failed in a run that was cut short is asked again.
    """

    def __init__(self, folder: Path, retry_failed: bool = False) -> None:
        """Open or create the journal of `folder`.

        Raises UserError where another process has it open.
        """
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
            end, self.damaged = scan(self.path, self._lines.__setitem__, retry_failed)
            self._file.begin(end)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        """Nothing more is asked for: every `ask` under way or to come raises Stopped at once, after
        writing down what its engine has in flight: whatever comes of it, unless the user or the system
        wants to leave (`why` is no Exception), who is not kept waiting.
        """
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
    ) -> list[Recorded]:
        """Replies to the conversations, in order; the engine is asked only for what is missing.

        Equal conversations are asked once. `sampling` None asks for a score (`Engine.score`).
        Whatever stops the engine or `listen`, the replies it gave before are in the journal.
        """
        keys = [request_key(kind, engine.identity, messages, sampling, prompt_version)
                for messages in conversations]
        first: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            first.setdefault(key, place)
        mine, known, awaited = self._share_out(first)
        replies: dict[bytes, Recorded] = {}

        def tell(keys: Iterable[bytes]) -> None:
            for key in keys:
                replies[key] = self._known(key)
                listen(replies[key], False)

        try:
            tell(known)  # first: that an engine worked once says more than that it fails now
            if mine:
                self._know(engine)
                todo = [conversations[first[key]] for key in mine]
                answers = engine.score(todo) if sampling is None else engine.generate(todo, sampling)
                self._hear(answers, listen, lambda index, reply: replies.update({
                    mine[index]: self._record(mine[index], kind, engine.identity, reply)}))
        finally:
            with self._lock:
                for key in mine:
                    self._asking.pop(key).set()
        tell(awaited)
        return [replies[key] for key in keys]

    def _know(self, engine: Engine) -> None:
        with self._lock:
            if not any(engine is known for known in self._engines):
                self._engines.append(engine)

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

    def _hear(
        self, answers: Iterator[tuple[int, Reply]], listen: Listener,
        note: Callable[[int, Reply], None],
    ) -> None:
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
        """What engines are told when nothing more is asked for (see `Engine`)."""
        return KeyboardInterrupt() if self._hurry else WindDown()

    def _record(self, key: bytes, kind: str, identity: str, reply: Reply) -> Recorded:
        line = {"key": key.hex(), "kind": kind, "engine": identity, "reply": vars(reply)}
        with self._lock:
            if self._closed:
                raise Stopped
            self._lines[key] = self._file.append(line)
            self.asked += 1
            self.failed += reply.error is not None
        return recorded(line)

    def _known(self, key: bytes) -> Recorded:
        """The reply on disk, as soon as it is there."""
        with self._lock:
            start, asking = self._lines.get(key), self._asking.get(key)
        if start is None and self._replaying:
            return Recorded("", error=NOT_ASKED, key=key.hex())
        if start is None and asking is not None:
            asking.wait()
        with self._lock:
            start = self._lines.get(key)
        if start is None:  # whoever asked for it failed or was stopped
            raise Stopped
        return recorded(self._file.read(start))


def _in_flight(
    answers: Iterator[tuple[int, Reply]], ask_for_it: KeyboardInterrupt
) -> Iterator[tuple[int, Reply]]:
    """What an engine that is interrupted still hands over (see `Engine`): it is paid for."""
    if not isinstance(answers, Generator):
        return
    try:
        yield answers.throw(ask_for_it)
        yield from answers
    except (KeyboardInterrupt, StopIteration, UserError):
        return
