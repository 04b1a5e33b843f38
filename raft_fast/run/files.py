"""Files and folders that appear whole or not at all, and JSON, JSON lines and YAML in them. What cannot be
read back is a `UserError` that names the file.

Safe against a kill or a power cut between any two writes: a hidden sibling is filled, made durable and
renamed, then the rename is made durable. Checksums find later damage."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from raft_fast.run.errors import UserError, first_line

MANIFEST = "manifest.json"


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file that takes the name of `path` when the block ends without an error. mode: w (text), wb."""
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


def write_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Have `fill` write a folder that appears whole or not at all, replacing what was there."""
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        fill(partial)
        for path in [*sorted(partial.rglob("*")), partial]:
            _sync(path)
        discard(folder)
        partial.replace(folder)
        _sync(folder.parent)
    except Exception:  # a full disk, say
        shutil.rmtree(partial, ignore_errors=True)
        raise


def seal(folder: Path) -> None:
    """Write the sha256 of every file in the folder into its manifest."""
    sums = {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=1), encoding="utf-8")


def check_seal(folder: Path) -> None:
    """Raises ValueError that names the first file that is missing or differs from the manifest."""
    try:
        sums = _parsed(json.loads, (folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"its {MANIFEST} cannot be read") from error
    if not sums:
        raise ValueError(f"its {MANIFEST} names no file")
    for name, expected in sums.items():
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if sha256(folder / name) != expected:
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


def sha256(path: Path) -> str:
    """The checksum of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(value: Any, path: Path) -> None:
    """Write one JSON value, atomically and durably; NaN is refused."""
    with replacing(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def write_jsonl(records: Iterable[Any], path: Path) -> None:
    """Write dictionaries, or what has `as_json`, as JSON lines, atomically and durably; NaN is refused."""
    with replacing(path) as file:
        for record in records:
            plain = record if isinstance(record, dict) else record.as_json()
            file.write(json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")


def write_yaml(value: dict[str, Any], path: Path) -> None:
    """Write a mapping as YAML that `read_yaml` reads as the same, atomically and durably."""
    with replacing(path) as file:
        yaml.dump(value, file, Dumper, sort_keys=False, allow_unicode=True)


def read_json(path: Path, fix: str = "restore it", kind: type[Any] = dict, keys: Iterable[str] = ()) -> Any:
    """The `kind` of JSON value in a file; it, or each item of a list, has these keys. Raises UserError, which
    ends with what to do (`fix`), if it cannot be read or holds anything else."""
    with _readable(path, fix):
        return _parsed(json.loads, path.read_text(encoding="utf-8"), kind, keys)


def read_jsonl(path: Path, fix: str = "restore it", keys: Iterable[str] = (), *,
               torn: bool = False) -> Iterator[Any]:
    """The objects in a file of JSON lines; with `torn` without a last line that a kill has cut short. Raises
    UserError as `read_json`, with the line's number."""
    # as bytes: a newline alone ends a line, and texts may hold other separators (U+2028, U+0085)
    with _readable(path, fix), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or (torn and not line.endswith(b"\n")):
                continue
            try:
                yield json_object(line, keys)
            except ValueError as error:
                raise ValueError(f"line {number}: {first_line(error)}") from error


def json_object(line: bytes, keys: Iterable[str] = ()) -> dict[str, Any]:
    """The JSON object in a line. Raises ValueError if it is no object or lacks one of these keys."""
    return _parsed(json.loads, line.decode(), dict, keys)  # type: ignore[no-any-return]


def read_yaml(path: Path, fix: str = "restore it", keys: Iterable[str] = ()) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError as `read_json`."""
    with _readable(path, fix):
        return _parsed(load_yaml, path.read_bytes(), dict, keys)  # type: ignore[no-any-return]


def _parsed(parser: Callable[[Any], Any], text: Any, kind: type[Any] = dict, keys: Iterable[str] = ()) -> Any:
    """The value of a text. Raises ValueError for anything but a `kind` with these keys."""
    if not text.strip():
        raise ValueError("it is empty")
    try:
        found: Any = parser(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(not_yaml(error)) from error
    if not isinstance(found, kind):
        raise ValueError(f"it holds no {'list' if kind is list else 'object'}")
    for key in keys:
        if not all(isinstance(one, dict) and key in one for one in (found if kind is list else [found])):
            raise ValueError(f"it has no {key!r}")
    return found


@contextmanager
def _readable(path: Path, fix: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # bytes that are not UTF-8 are a ValueError too
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise UserError(f"{path} cannot be read ({reason}): {fix}") from error


class Loader(yaml.SafeLoader):
    """YAML in which 1e-5 is a number too."""


Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: node.value)  # dates are texts


class Dumper(yaml.SafeDumper):
    """Puts quotes around a text that `Loader` would read as a number."""


for _own in (Loader, Dumper):
    _own.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
                               list("-+0123456789"))


def load_yaml(text: str | bytes) -> Any:
    """The value of a YAML text, by a safe loader. Raises yaml.YAMLError, ValueError or RecursionError."""
    return yaml.load(text, Loader)


def not_yaml(error: Exception) -> str:
    """Why a text is not YAML, and where, in one line."""
    mark, why = getattr(error, "problem_mark", None), getattr(error, "problem", None) or first_line(error)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"not valid YAML: {where}{'nested too deeply' if isinstance(error, RecursionError) else why}"
