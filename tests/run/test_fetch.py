"""Downloads: pinned, checked, whole or not at all; the hub is never needed. And uploads."""

import hashlib
import json
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from raft_fast.models.fetch import fetch_model
from raft_fast.run import fetch
from raft_fast.run.errors import UserError
from raft_fast.run.fetch import fetch_wheel, quickstart_rows
from raft_fast.run.options import SMOLLM2, WatchOptions


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAFT_FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def no_hub(name, revision):
    raise ConnectionError("no route")


def serve(monkeypatch, files, name="some-data"):
    """Let pip "download" a wheel holding `files`, pinned by its hash; returns how often it was asked."""
    calls = []

    def download(requirement, folder):
        calls.append(requirement)
        with zipfile.ZipFile(f"{folder}/package.whl", "w") as archive:
            for path, text in files.items():
                archive.writestr(zipfile.ZipInfo(path), text)

    monkeypatch.setattr(fetch, "_pip_download", download)
    with tempfile.TemporaryDirectory() as folder:
        download("x", folder)
        digest = hashlib.sha256(Path(folder, "package.whl").read_bytes()).hexdigest()
    monkeypatch.setitem(fetch.WHEELS, name, (f"{name}==1", digest))
    return calls


def test_a_wheel_is_checked_and_kept(cache, monkeypatch):
    calls = serve(monkeypatch, {"package/data.txt": "hello"})
    first = fetch_wheel("some-data")
    assert (first / "package/data.txt").read_text() == "hello"
    assert fetch_wheel("some-data") == first
    assert calls == ["x", "some-data==1"]
    kept = list((cache / "wheels").iterdir())
    monkeypatch.setitem(fetch.WHEELS, "some-data", ("some-data==2", "0" * 64))
    with pytest.raises(UserError, match=r"sha256 is .*, must be 000"):
        fetch_wheel("some-data")
    assert list((cache / "wheels").iterdir()) == kept


def test_quickstart_rows_have_our_columns(monkeypatch):
    record = {"id": "a", "category": "c", "q": "How high?", "a": "1.1 m", "sources": []}
    serve(monkeypatch, {"zaragoza_construction_faq/data/faq-en.jsonl": json.dumps(record)},
          "zaragoza-construction-faq")
    assert json.loads(quickstart_rows().read_text()) == {
        "id": "a", "category": "c", "question": "How high?", "answer": "1.1 m"}


def test_without_the_hub_the_wheel_serves_and_the_hubs_weights_are_checked(monkeypatch, tmp_path):
    monkeypatch.setattr("raft_fast.models.fetch._from_hub", no_hub)
    monkeypatch.setattr("raft_fast.models.fetch._smollm2", lambda: tmp_path)
    assert fetch_model(SMOLLM2) == tmp_path
    (tmp_path / "model.safetensors").write_bytes(b"tampered")
    monkeypatch.setattr("raft_fast.models.fetch._from_hub", lambda name, revision: tmp_path)
    with pytest.raises(UserError, match="sha256"):
        fetch_model(SMOLLM2)


@pytest.mark.parametrize(("name", "message"), [
    ("some/model", r"--model some/model: no such folder, and the hub .*ConnectionError: no route"),
    ("./nowhere", "--model ./nowhere: no such folder"),
    ("nowhere", "--model nowhere: no such folder"),
])
def test_models_that_cannot_be_found_are_named(monkeypatch, name, message):
    monkeypatch.setattr("raft_fast.models.fetch._from_hub", no_hub)
    with pytest.raises(UserError, match=message):
        fetch_model(name)


def test_a_download_that_fails_says_what_broke_and_names_the_proxy(monkeypatch, tmp_path):
    said = ("WARNING: Retrying (Retry(total=0)) after connection broken by 'ProxyError(refused)': /simple/\n"
            "ERROR: No matching distribution found for x==1\n")
    failed = SimpleNamespace(returncode=1, stderr=said)
    monkeypatch.setattr(fetch.subprocess, "run", lambda *_, **__: failed)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://host:1")
    with pytest.raises(UserError, match=r"x==1 .*: 'ProxyError.*.*, through the proxy in HTTPS_PROXY$"):
        fetch._pip_download("x==1", str(tmp_path))
    monkeypatch.setenv("https_proxy", "")  # the lower-case one wins, and says: none
    with pytest.raises(UserError, match=r"/simple/$"):
        fetch._pip_download("x==1", str(tmp_path))


def test_the_hub_gets_the_folder(tmp_path, monkeypatch):
    calls = []
    assert fetch.repository(WatchOptions(), tmp_path) is None
    assert fetch.repository(WatchOptions(push_to_hub=True), tmp_path / "mine") == "mine"
    assert fetch.repository(WatchOptions(push_to_hub=True, hub_model_id="me/model"), tmp_path) == "me/model"
    for name in ("me/my/model", "my model", "a..b"):
        with pytest.raises(UserError, match=f"--hub_model_id {name}: "):
            fetch.repository(WatchOptions(push_to_hub=True, hub_model_id=name), tmp_path)

    class Api:
        def create_repo(self, name, **options):
            calls.append((name, options))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{name}")

        def upload_folder(self, **options):
            calls.append((options["repo_id"], options["folder_path"]))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert fetch.push(tmp_path, "me/model") == "https://huggingface.co/me/model"
    fetch.push(tmp_path, "me/open", private=False)
    assert calls == [("me/model", {"private": True, "exist_ok": True}), ("me/model", tmp_path),
                     ("me/open", {"private": False, "exist_ok": True}), ("me/open", tmp_path)]


@pytest.mark.parametrize("error", [None, OSError("offline"), KeyError("repo"), RuntimeError("xet"),
                                   Exception("read timed out")], ids=repr)
def test_no_error_of_the_hub_client_is_a_traceback(tmp_path, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    nowhere = huggingface_hub.HfApi(endpoint="http://127.0.0.1:9")  # nobody listens there
    if error is not None:
        nowhere.create_repo = refuse
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: nowhere)
    name = type(error).__name__ if error else r"\w+"
    with pytest.raises(UserError, match=rf"--hub_model_id me/model: {name}: .*; the model is in .*: upload "
                                        "it with hf upload me/model "):
        fetch.push(tmp_path, "me/model")
