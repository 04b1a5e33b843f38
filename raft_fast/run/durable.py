"""Files and folders that appear whole or not at all; checksums that find later damage.

The order makes it safe against a kill or a power cut between any two writes: fill a hidden sibling, make its
files durable, write their checksums last, rename, make the rename durable.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

MANIFEST = "manifest.json"


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file that takes the name of `path` when the block ends without an error. `mode` is "w" (text) or
    "wb"."""
    partial = path.with_name(f".partial-{path.name}")
    try:
        with partial.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with nothing in it
        partial.replace(path)
    except Exception:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Have `fill` write a folder that appears whole or not at all, replacing what was there.

    If it fails (a full disk, say) the partial folder is removed.
    """
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        fill(partial)
        flush(partial)
        discard(folder)
        partial.replace(folder)
        _sync(folder.parent)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def seal(folder: Path) -> None:
    """Write the sha256 of every file in the folder into its manifest, once the files are durable."""
    flush(folder)
    sums = {str(path.relative_to(folder)): _sha256(path) for path in _files(folder)}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=1), encoding="utf-8")


def check_seal(folder: Path) -> None:
    """Raises ValueError that names the first file that is missing or differs from the manifest."""
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"its {MANIFEST} cannot be read") from error
    if not isinstance(sums, dict) or not sums:
        raise ValueError(f"its {MANIFEST} names no file")
    for name, expected in sums.items():
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if _sha256(folder / name) != expected:
            raise ValueError(f"the checksum of {name} differs")


def discard(folder: Path) -> None:
    """Rename a folder, then remove it: a half removed one never looks whole."""
    if folder.exists():
        doomed = folder.with_name(f".partial-old-{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.replace(doomed)
        shutil.rmtree(doomed)


def sweep(folder: Path) -> None:
    """Remove partial folders that a killed process has left."""
    for left in folder.glob(".partial-*"):
        shutil.rmtree(left, ignore_errors=True)


def flush(folder: Path) -> None:
    """Make every file and every folder below (and the folder itself) durable."""
    for path in [*sorted(folder.rglob("*")), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
