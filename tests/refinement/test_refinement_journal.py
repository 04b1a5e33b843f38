"""The journal: nothing is asked twice, nothing that was answered is lost."""

import json

import pytest
from refinement_stubs import StubEngine

from raft_fast.engines import Message, Reply, Sampling
from raft_fast.errors import UserError
from raft_fast.refinement.journal import FILE, Journal

SAMPLING = Sampling(seed=3)


def ask(journal, engine, texts, sampling=SAMPLING, version="v1", kind="rewrite", steps=None):
    conversations = [[Message(role="user", content=text)] for text in texts]
    advance = (lambda n: None) if steps is None else steps.append
    return [reply.text for reply in
            journal.ask(kind, engine, conversations, sampling, version, advance)]


@pytest.fixture
def engine():
    return StubEngine("echo", lambda text, seed: f"{text} {seed}")


def test_replies_come_in_order_and_are_asked_once(tmp_path, engine):
    steps = []
    with Journal(tmp_path) as journal:
        assert ask(journal, engine, ["a", "b", "a"], steps=steps) == ["a 3", "b 3", "a 3"]
        assert (journal.asked, journal.cached) == (2, 0)
    assert len(engine.asked) == 2
    assert sum(steps) == 3
    with Journal(tmp_path) as journal:
        assert ask(journal, engine, ["b", "a", "c"], steps=steps) == ["b 3", "a 3", "c 3"]
        assert (journal.asked, journal.cached) == (1, 2)
    assert len(engine.asked) == 3
    assert sum(steps) == 6


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


def test_failures_are_returned_and_asked_again(tmp_path):
    engine = StubEngine("flaky", lambda text, seed: Reply("", error="busy"))
    for _ in range(2):
        with Journal(tmp_path) as journal:
            reply, = journal.ask("rewrite", engine, [[Message(role="user", content="a")]],
                                 SAMPLING, "v1", lambda n: None)
        assert reply.error == "busy"
    assert len(engine.asked) == 2
    assert (tmp_path / FILE).read_text() == ""


def test_a_killed_run_keeps_what_was_answered(tmp_path, engine):
    dying = StubEngine("echo", engine.answer, dies_after=3)
    with pytest.raises(KeyboardInterrupt), Journal(tmp_path) as journal:
        ask(journal, dying, list("abcde"))
    with Journal(tmp_path) as journal:
        assert ask(journal, engine, list("abcde")) == [f"{text} 3" for text in "abcde"]
    assert len(engine.asked) == 2


def test_every_reply_is_on_disk_before_the_next_one_is_asked_for(tmp_path):
    lines = []
    engine = StubEngine("slow", lambda text, seed: lines.append(
        (tmp_path / FILE).read_bytes().count(b"\n")) or "x")
    with Journal(tmp_path) as journal:
        ask(journal, engine, list("abc"))
    assert lines == [0, 1, 2]


def test_a_torn_last_line_is_cut_and_only_it_is_asked_again(tmp_path, engine):
    with Journal(tmp_path) as journal:
        ask(journal, engine, ["a", "b"])
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-20])
    with Journal(tmp_path) as journal:
        ask(journal, engine, ["a", "b"])
        assert (journal.asked, journal.damaged) == (1, 0)
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert all(json.loads(line) for line in lines)


def test_a_damaged_line_in_the_middle_is_skipped_and_counted(tmp_path, engine):
    with Journal(tmp_path) as journal:
        ask(journal, engine, ["a", "b", "c"])
    path = tmp_path / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00\xff garbage\n" + lines[2])
    with Journal(tmp_path) as journal:
        assert ask(journal, engine, ["a", "b", "c"]) == ["a 3", "b 3", "c 3"]
        assert (journal.asked, journal.damaged) == (1, 1)


def test_a_second_process_on_the_folder_is_refused(tmp_path):
    with Journal(tmp_path), pytest.raises(UserError, match=r"another process .*--output_dir"):
        Journal(tmp_path)
    with Journal(tmp_path):
        pass
