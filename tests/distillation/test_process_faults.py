"""One of two processes fails, is stopped or is signalled: both end, soon, and with the reason."""

import json
import multiprocessing
from multiprocessing import forkserver

import pytest
from faulty_processes import ALONE, work
from two_processes import run


@pytest.fixture
def both(tmp_path):
    """How each of two processes ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faulty_processes"])
    forkserver.ensure_running()

    def ended(what):
        workers = [context.Process(target=work, args=(rank, tmp_path, what)) for rank in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(timeout=60)
            worker.kill()
        return [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]

    return ended


def saved(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_checkpoint_that_one_process_cannot_read_ends_both(tmp_path, both):
    """It used to go on from the one before, alone."""
    run(tmp_path, ALONE)
    before = saved(tmp_path)
    first, second = both("checkpoint")
    assert first == ["SystemExit", "1", None]
    assert second[0] == "UserError"
    assert "step-000004: cannot be read here ([Errno 5] Input/output error)" in second[1]
    assert saved(tmp_path) == before == ["step-000002", "step-000004"]


def test_an_engine_that_fails_in_one_process_ends_both(both):
    assert both("sample") == [["SystemExit", "1", None], ["UserError", "the engine of process 1", None]]


def test_a_stop_decided_by_the_first_ends_both(tmp_path, both):
    assert both("stop") == [["ended"], ["ended"]]
    assert saved(tmp_path) == ["step-000001"]


def test_a_signal_to_any_process_saves_a_checkpoint_and_ends_both(tmp_path, both):
    """Sent twice: launchers pass on what the system has delivered already."""
    first, second = both("signal")
    assert first[0] == "Stopped"
    assert first[2] == 143
    assert "step 2 of 4" in first[1]
    assert second == ["SystemExit", "143", None]
    assert saved(tmp_path) == ["step-000002"]
