"""Trackers: where a run's numbers go."""

import pytest
from watched_run import lines, make_scorer, run

from raft_fast.distillation.watching import Trackers, find_trackers
from raft_fast.evaluation.during_training import EvaluateEvery
from raft_fast.run.errors import UserError


@pytest.fixture
def stub_tracker(monkeypatch):
    from accelerate import tracking

    class Stub(tracking.GeneralTracker):
        name, requires_logging_directory, made = "stub", True, []

        def __init__(self, run_name, logging_dir=None):
            super().__init__()
            self.values, self.config, self.finished, self.broken = [], None, False, False
            Stub.made.append(self)

        @property
        def tracker(self):
            return self

        def store_init_configuration(self, values):
            self.config = values

        def log(self, values, step=None, **kwargs):
            if self.broken:
                raise ConnectionError("service is down")
            self.values.append((step, values))

        def finish(self):
            self.finished = True

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "stub", Stub)
    return Stub


def test_trackers_get_every_number(tmp_path, chat, stub_tracker):
    trackers = Trackers(find_trackers("stub"), tmp_path / "run", {"learning_rate": 0.1, "revision": None})
    run(tmp_path / "run", chat, [trackers, EvaluateEvery(3, make_scorer(chat))])
    (stub,) = stub_tracker.made
    assert (stub.config, stub.finished) == ({"learning_rate": 0.1, "revision": "None"}, True)
    assert [step for step, values in stub.values if "loss" in values] == [1, 2, 3, 4, 5, 6]
    assert [step for step, values in stub.values if "eval_domain_nll" in values] == [0, 3, 6]
    logged = [values for _, values in stub.values if "loss" in values]
    for values, line in zip(logged, lines(tmp_path / "run/metrics.jsonl"), strict=True):
        numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
        assert values == {name: numbers[name] for name in values}
        assert set(numbers) - set(values) <= {"step", "skipped_steps"}


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(tmp_path, chat, stub_tracker):
    trackers = Trackers(find_trackers("stub"), tmp_path / "run", {})
    stub_tracker.made.pop().broken = True
    with pytest.warns(UserWarning, match="tracker stub failed and is left out: service is down"):
        run(tmp_path / "run", chat, [trackers])
    assert len(lines(tmp_path / "run/metrics.jsonl")) == 6


def test_unknown_and_missing_trackers_are_named_and_all_are_those_installed(monkeypatch):
    for name, said in (("none, nonsense", "--report_to nonsense"), ("clearml", "clearml: not installed")):
        with pytest.raises(UserError, match=said):
            find_trackers(name)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    assert find_trackers("none") == find_trackers("None") == find_trackers("no") == find_trackers("all") == []
