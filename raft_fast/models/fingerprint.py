"""What a model's folder holds, as a short hash: the same wherever the folder lies."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

BLOCKS, BLOCK_BYTES = 64, 1 << 16
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
