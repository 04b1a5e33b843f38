"""Where a run's numbers and its model go: trackers and the hub."""

import pytest
from watched_run import lines, make_scorer, run

from raft_fast.distillation.watching import Trackers, find_trackers
from raft_fast.evaluation.during_training import EvaluateEvery
from raft_fast.run import fetch as hub
from raft_fast.run.errors import UserError
from raft_fast.run.options import WatchOptions


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
    assert stub.config == {"learning_rate": 0.1, "revision": "None"}
    assert stub.finished
    steps = [step for step, values in stub.values if "loss" in values]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [step for step, values in stub.values if "eval_domain_nll" in values] == [0, 3, 6]
    logged = [values for _, values in stub.values if "loss" in values]
    for values, line in zip(logged, lines(tmp_path / "run/metrics.jsonl"), strict=True):
        numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
        assert values == {name: numbers[name] for name in values}
        assert set(numbers) - set(values) <= {"step", "skipped_steps"}
    stub_tracker.made.clear()


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(tmp_path, chat, stub_tracker):
    trackers = Trackers(find_trackers("stub"), tmp_path / "run", {})
    stub_tracker.made.pop().broken = True
    with pytest.warns(UserWarning, match="tracker stub failed and is left out: service is down"):
        run(tmp_path / "run", chat, [trackers])
    assert len(lines(tmp_path / "run/metrics.jsonl")) == 6


def test_unknown_and_missing_trackers_are_named():
    with pytest.raises(UserError, match="--report_to nonsense"):
        find_trackers("none, nonsense")
    with pytest.raises(UserError, match="--report_to clearml: not installed"):
        find_trackers("clearml")
    assert find_trackers("none") == find_trackers("None") == find_trackers("no") == []


def test_all_trackers_are_those_that_are_installed(monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    assert find_trackers("all") == []


def test_the_hub_gets_the_folder_and_a_refusal_is_one_line(tmp_path, monkeypatch):
    import huggingface_hub

    calls = []
    assert hub.repository(WatchOptions(), tmp_path) is None
    assert hub.repository(WatchOptions(push_to_hub=True), tmp_path / "mine") == "mine"
    assert hub.repository(WatchOptions(push_to_hub=True, hub_model_id="me/model"), tmp_path) == "me/model"
    for name in ("me/my/model", "my model", "a..b"):
        with pytest.raises(UserError, match=f"--hub_model_id {name}: "):
            hub.repository(WatchOptions(push_to_hub=True, hub_model_id=name), tmp_path)

    class Api:
        def create_repo(self, name, **options):
            calls.append((name, options))
            if name == "no/way":
                raise OSError("offline")
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{name}")

        def upload_folder(self, **options):
            calls.append(options)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert hub.push(tmp_path, "me/model") == "https://huggingface.co/me/model"
    assert calls[0] == ("me/model", {"private": True, "exist_ok": True})
    hub.push(tmp_path, "me/open", private=False)
    assert calls[2] == ("me/open", {"private": False, "exist_ok": True})
    assert calls[1]["folder_path"] == tmp_path
    assert calls[1]["repo_id"] == "me/model"
    with pytest.raises(UserError, match="--hub_model_id no/way: OSError: offline; the model is in"):
        hub.push(tmp_path, "no/way")


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    import huggingface_hub

    nowhere = huggingface_hub.HfApi(endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: nowhere)
    with pytest.raises(UserError, match=r"--hub_model_id me/model: \w+: .*; the model is in .*: upload it "
                                        "with hf upload me/model "):
        hub.push(tmp_path, "me/model")


@pytest.mark.parametrize("error", [KeyError("repo"), RuntimeError("xet"), Exception("read timed out")])
def test_no_error_of_the_hub_client_is_a_traceback(tmp_path, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(UserError, match=f"{type(error).__name__}.*; the model is in"):
        hub.push(tmp_path, "me/model")
