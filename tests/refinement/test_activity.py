"""The note behind stage 1's progress bar."""

import re
from contextlib import contextmanager

from refinement_stubs import UNCHECKED, StubEncoder, StubEngine, row

from raft_fast.engines import Reply
from raft_fast.engines.asking import Activity
from raft_fast.refinement import Roles, raft, refine
from raft_fast.run.options import RefineOptions
from raft_fast.run.progress import Reporter


class Slow(StubEngine):
    """Tells what it is at."""

    def under_way(self):
        return "3 in flight"


def test_it_counts_replies_and_tells_what_is_under_way():
    """An engine that plays two parts is asked once; one that has nothing to tell is not."""
    slow = Slow("slow", str)
    activity = Activity([slow, StubEngine("quick", str), slow])
    assert activity.note() == "3 in flight"
    rewritten, scored = activity.listener("rewrite"), activity.listener("judge")
    rewritten(Reply("a"), True)
    rewritten(Reply("b"), False)
    scored(Reply("", error="oh"), True)
    told = re.sub(r"[\d.]+ replies/s", "n replies/s", activity.note())
    assert told == "2 rewrites, 1 scores, 1 of them from the journal, 1 failed, n replies/s, 3 in flight"


def test_refining_shows_what_is_under_way_before_the_first_reply(tmp_path):
    """The note is there when an engine is asked for the first time."""
    shown = []

    class Noting(Reporter):
        @contextmanager
        def phase(self, name, total=None, unit=""):
            yield lambda steps=1, note="", found=0: shown.append(note)

    def answer(text, seed):
        assert shown[0]() == "3 in flight"
        return "Other words."

    options = RefineOptions(fusion_rounds=0, skip_checks=UNCHECKED)
    refine([row("a")], raft(options), Roles(Slow("slow", answer)), StubEncoder(), tmp_path, Noting())


def test_rows_whose_replies_were_in_the_journal_are_found_not_done(tmp_path):
    told = []

    class Noting(Reporter):
        @contextmanager
        def phase(self, name, total=None, unit=""):
            yield lambda steps=1, note="", found=0: told.append((steps, found))

    options = RefineOptions(fusion_rounds=0, skip_checks=UNCHECKED)
    roles = Roles(StubEngine("quick", lambda text, seed: "Other words."))
    for _ in range(2):
        refine([row("a")], raft(options), roles, StubEncoder(), tmp_path, Noting())
    assert told == [(0, 0), (1, 0), (0, 0), (0, 1)]
