"""What a model's folder or a loaded model holds, as a short hash: the same wherever it lies."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

BLOCKS, BLOCK_BYTES = 64, 1 << 16
LOADED = 4096  # numbers of a tensor in memory
LANGUAGE_MODEL = ("*.safetensors", "tokenizer*", "*.jinja")
SENTENCE_ENCODER = ("**/*.safetensors", "**/*.json", "**/*.txt")  # pooling and layers have their own folders


def fingerprint(folder: Path, patterns: Sequence[str] = LANGUAGE_MODEL) -> str:
    """Tells weights apart without reading all of them: sizes and 64 evenly spaced blocks of each file.

    16 hex digits over the files that `patterns` find in `folder`, and their paths in it.
    """
    digest = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()} {size}".encode())
        with file.open("rb") as stream:
            for block in range(BLOCKS):
                stream.seek(size * block // BLOCKS)
                digest.update(stream.read(BLOCK_BYTES))
    return digest.hexdigest()[:16]


def fingerprint_tokenizer(tokenizer: Any) -> str:
    """16 hex digits over a loaded tokenizer's vocabulary and chat template."""
    told = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.chat_template])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


@torch.no_grad()
def fingerprint_loaded(model: Any, tokenizer: Any) -> str:
    """16 hex digits over a loaded model and its tokenizer: names, shapes, dtypes and 4096 evenly spaced
    numbers of every tensor."""
    digest = hashlib.sha256(fingerprint_tokenizer(tokenizer).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        numbers = tensor.flatten()[:: max(1, tensor.numel() // LOADED)]
        digest.update(numbers.double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
