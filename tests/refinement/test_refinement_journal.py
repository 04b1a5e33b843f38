"""The journal: nothing is asked twice, nothing that was answered is lost."""

import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from refinement_stubs import StubEngine

from raft_fast.data.texts import Message
from raft_fast.engines import Reply, Sampling
from raft_fast.engines import journal as journals
from raft_fast.engines.asking import Part, ask_once, load_prompts
from raft_fast.engines.journal import FILE, Journal, Stopped
from raft_fast.run.errors import UserError

SAMPLING = Sampling(seed=3)


def ask(journal, engine, texts, sampling=SAMPLING, version="v1", kind="rewrite", listen=lambda *_: None):
    conversations = [[Message(role="user", content=text)] for text in texts]
    return [reply.text for reply in journal.ask(kind, engine, conversations, sampling, version, listen)]


@pytest.fixture
def engine():
    return StubEngine("echo", lambda text, seed: f"{text} {seed}")


def test_replies_come_in_order_and_are_asked_once(tmp_path, engine):
    long = "é" * 30_000
    for texts, fresh in ((["a", long, "a"], {"a", long}), ([long, "a", "c"], {"c"})):
        steps = []
        with Journal(tmp_path) as journal:
            assert ask(journal, engine, texts, listen=lambda reply, new, steps=steps: steps.append(
                (reply.text, new))) == [f"{text} 3" for text in texts]
            assert journal.asked == len(fresh)
        assert sorted(steps) == sorted((f"{text} 3", text in fresh) for text in {*texts})
    assert len(engine.asked) == 3


def test_a_score_is_read_back_and_its_reply_knows_its_key(tmp_path):
    for answer in (lambda text, seed: Reply("because", score=0.25), None):  # the latter is not asked
        engine = StubEngine("judge", answer)
        with Journal(tmp_path) as journal:
            reply, = journal.ask("judge", engine, [[Message(role="user", content="a")]], None, "v1")
        assert (reply.text, reply.score) == ("because", 0.25)
    assert json.loads((tmp_path / FILE).read_text().splitlines()[0])["key"] == reply.key


def test_characters_that_nothing_takes_never_leave_a_part(tmp_path):
    """Of an engine in this process, and of journals that hold them."""
    engine = StubEngine("writer", lambda text, seed: Reply(" half \U00100001 of it\n"))
    for _ in range(2):
        with Journal(tmp_path) as journal:
            (reply,) = Part("--rewriter", engine, journal).ask("rewrite", [ask_once("?")], Sampling(),
                                                               load_prompts().rewrite)
            assert reply.text == "half \ufffd of it"


@pytest.mark.parametrize("change", [
    {"sampling": Sampling(seed=4)}, {"sampling": Sampling(seed=3, temperature=0.5)},
    {"version": "v2"}, {"kind": "fuse"}, {"sampling": None},
])
def test_whatever_shapes_a_reply_is_in_its_key(tmp_path, engine, change):
    with Journal(tmp_path) as journal:
        ask(journal, engine, ["a"])
        ask(journal, engine, ["a"], **change)
        ask(journal, StubEngine("other", engine.answer), ["a"])
        assert journal.asked == 3


def test_a_failure_is_asked_again_if_told_to_or_if_the_run_was_cut_short(tmp_path):
    """A finished run keeps the reply, not the failures before it."""
    for cut, retry_failed, asked, text in (
            (True, False, 1, ""), (False, False, 1, ""), (False, False, 0, ""), (False, True, 1, "better"),
            (False, False, 0, "better")):
        engine = StubEngine("flaky", lambda *_, text=text: text or Reply("", error="busy"))
        with suppress(KeyboardInterrupt), Journal(tmp_path, retry_failed) as journal:
            assert ask(journal, engine, ["a"]) == [text]
            if cut:
                raise KeyboardInterrupt
        assert len(engine.asked) == asked
    assert (journal.asked, journal.failed) == (0, 0)


def test_threads_that_want_the_same_reply_ask_once(tmp_path):
    begun, go_on = threading.Event(), threading.Event()

    def slow(text, seed):
        begun.set()
        go_on.wait(10)
        return f"{text} {seed}"

    engine = StubEngine("slow", slow)
    with Journal(tmp_path) as journal, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, journal, engine, ["a"])
        begun.wait(10)
        second = pool.submit(ask, journal, engine, ["a"])
        go_on.set()
        assert first.result() == second.result() == ["a 3"]
    assert len(engine.asked) == 1


def test_a_journal_that_is_stopped_asks_for_nothing_more(tmp_path, engine):
    with Journal(tmp_path) as journal:
        ask(journal, engine, ["a"])
        journal.stop()
        with pytest.raises(Stopped):
            ask(journal, engine, ["a", "b"])
    assert len(engine.asked) == 1


class Generous(StubEngine):
    """Interrupted, it still hands over one reply, as engines with requests in flight do."""

    def generate(self, conversations, sampling):
        try:
            for index in range(len(conversations) - 1):
                self.asked.append(conversations[index])
                yield index, Reply(f"reply {index}")
        except KeyboardInterrupt:
            yield len(conversations) - 1, Reply("in flight")
            raise


def test_what_is_in_flight_when_listening_ends_is_kept(tmp_path, engine):
    def enough(reply, fresh):
        raise UserError("enough")

    generous = Generous("echo", engine.answer)
    with pytest.raises(UserError, match="enough"), Journal(tmp_path) as journal:
        ask(journal, generous, "abc", listen=enough)
    with Journal(tmp_path) as journal:
        assert ask(journal, engine, ["a", "c", "b"]) == ["reply 0", "in flight", "b 3"]


@pytest.mark.parametrize("damage", [
    lambda lines: lines[0] + lines[1] + lines[2][:-20],  # cut short by a crash
    lambda lines: lines[0] + lines[1] + b"\x00\xff garbage\n",
    lambda lines: lines[0] + b"\x00\xff garbage\n" + lines[2]])
def test_a_damaged_line_is_counted_and_only_it_is_asked_again(tmp_path, engine, damage):
    with Journal(tmp_path) as journal:
        ask(journal, engine, ["a", "b", "c"])
    path = tmp_path / FILE
    path.write_bytes(damage(path.read_bytes().splitlines(keepends=True)))
    for asked, damaged in ((1, 1), (0, path.read_bytes().count(b"garbage"))):
        with Journal(tmp_path) as journal:
            assert ask(journal, engine, ["a", "b", "c"]) == ["a 3", "b 3", "c 3"]
            assert (journal.asked, journal.damaged) == (asked, damaged)


def test_a_disk_that_fails_after_a_line_was_written_is_heard_of(tmp_path, monkeypatch, engine):
    """The system reports it once, to whoever syncs; the run must not go on as if all were on the disk."""
    def fails(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journals, "FSYNC_SECONDS", -1.0)
    with Journal(tmp_path) as journal:
        ask(journal, engine, ["a"])
        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="No space left"):
            ask(journal, engine, ["b"])
        monkeypatch.undo()
    with Journal(tmp_path) as journal:
        ask(journal, engine, ["a", "b"])
        assert journal.asked == 1
