"""JSON, JSON lines and YAML: written whole or not at all; a file that cannot be read back is a `UserError`
that names it."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from raft_fast.run.durable import replacing
from raft_fast.run.errors import UserError, first_line


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
    found: dict[str, Any] = _parsed(json.loads, line.decode(), dict, keys)
    return found


def read_yaml(path: Path, fix: str = "restore it", keys: Iterable[str] = ()) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError as `read_json`."""
    with _readable(path, fix):
        found: dict[str, Any] = _parsed(load_yaml, path.read_bytes(), dict, keys)
        return found


_NAMES = {dict: "an object", list: "a list", str: "a text", type(None): "null", bool: "true or false"}


def _parsed(parser: Callable[[Any], Any], text: str | bytes, kind: type[Any], keys: Iterable[str]) -> Any:
    """The value of a text. Raises ValueError for anything but a `kind` with these keys."""
    if not text.strip():
        raise ValueError("it is empty")
    try:
        found: Any = parser(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(not_yaml(error, text)) from error
    if not isinstance(found, kind):
        raise ValueError(f"it holds {_NAMES.get(type(found), 'a number')}, not {_NAMES[kind]}")
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
    """YAML as people write it: 1e-5 is a number, 007 is seven, 12:30 and 2024-01-01 are texts, and so are
    keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            self.flatten_mapping(node)  # << first: as a text it would merge nothing
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    key.tag = _TAG + "str"
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """Puts quotes around a text that either version of YAML would read as anything else."""


_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    "int": (r"[-+]?[0-9]+(?:_[0-9]+)*|0x[0-9a-fA-F]+|0o[0-7]+", "-+0123456789"),
    "float": (r"[-+]?(?:[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
              r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.0123456789"),
}
Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers
             if tag not in {_TAG + name for name in (*_PLAIN, "timestamp")}]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}
for _name, (_pattern, _letters) in _PLAIN.items():
    for _own in (Loader, Dumper):
        _own.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})$"), list(_letters))
Loader.add_constructor(_TAG + "int", lambda loader, node: int(node.value, 0 if node.value[1:2] in ("x", "o")
                                                               else 10))


def load_yaml(text: str | bytes) -> Any:
    """The value of a YAML text, by a safe loader. Raises yaml.YAMLError, ValueError or RecursionError."""
    return yaml.load(text, Loader)


def not_yaml(error: Exception, text: str | bytes) -> str:
    """Why a text is not YAML, and where, in one line."""
    if isinstance(error, RecursionError):
        return "not valid YAML: it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark or error.context_mark):
        line, column, why = mark.line, mark.column, error.problem or error.context
    elif isinstance(error, yaml.reader.ReaderError):
        if isinstance(text, bytes) and error.encoding == "unicode":  # counted in characters, else in bytes
            text = text.decode(errors="replace")
        before = text[: error.position]
        lines = (before.decode(errors="replace") if isinstance(before, bytes) else before).split("\n")
        line, column, why = len(lines) - 1, len(lines[-1]), error.reason
    else:
        return f"not valid YAML: {first_line(error)}"
    return f"not valid YAML: line {line + 1}, column {column + 1}: {why}"
