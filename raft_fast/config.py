"""Reading the command line and the YAML file it names into option groups (`raft_fast.options`).

YAML is the default, the command line wins, an unknown key fails. Shipped configurations live in
`configs/`.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse
import yaml

from raft_fast.durable import replacing
from raft_fast.errors import UserError
from raft_fast.options import ALL_GROUPS, flat

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)  # they are what --help says

Group = TypeVar("Group")


class _Help(jsonargparse.DefaultHelpFormatter):
    """Says choices once: they stand beside the option already."""

    def _get_type_str(self, action: Any) -> str | None:
        kind = super()._get_type_str(action)
        return None if kind and kind.startswith("Literal[") else kind


class _Parser(jsonargparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest option where a name is unknown."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        if "unrecognized arguments: " in message:
            wrong = message.split("unrecognized arguments: ")[1].split()[0].split("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            message = f"unknown option {wrong}{_nearest(wrong, known)}"
        elif told := re.search(r'key "(\w+)":\s*(.*?)\.? Got value: (.*)', message, re.DOTALL):
            name, must, value = told.groups()
            raise UserError(f"--{name} {value.strip()}: must be {_in_words(must)}")
        raise UserError(f"{message} (see python -m {self.prog} --help)")


def _in_words(expected: str) -> str:
    """What the parser expected, without its type notation."""
    if choices := re.search(r"Literal\[(.*?)\]", expected):
        return "one of " + choices[1].replace("'", "")
    kinds = {"int": "a whole number", "float": "a number", "bool": "true or false"}
    return next((text for kind, text in kinds.items() if f"'{kind}'" in expected), expected)


def _nearest(wrong: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


class _WordsStayWords(yaml.SafeLoader):
    """YAML 1.2's idea of a boolean: `duplicates: off` names a choice."""


_BOOL = "tag:yaml.org,2002:bool"
_WordsStayWords.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_WordsStayWords.add_implicit_resolver(_BOOL, re.compile("(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def from_yaml(path: Path) -> Any:
    """What a file of options says. Raises UserError where it is not YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _WordsStayWords)  # a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error


def parse(
    program: str, description: str, groups: list[type], argv: list[str] | None = None,
    default: str = "raft",
) -> tuple[str, list[Any]]:
    """Read the command line and the YAML file it names.

    Returns the configuration's name and one instance for each of `groups`. `default` names the
    shipped configuration used where the command line has no --config.
    """
    parser = _Parser(prog=f"raft_fast.{program}", description=description,
                     usage=f"python -m raft_fast.{program} [--config FILE] [--option value ...]",
                     allow_abbrev=False, formatter_class=_Help)
    parser.add_argument("--config", metavar="FILE", default=default, help=(
        f"YAML file, or the name of a shipped one: {', '.join(shipped())}"))
    for group in groups:
        parser.add_class_arguments(group)
    _let_flags_stand_alone(parser)
    arguments = parser.parse_args(argv)
    name, path = _find_config(arguments.config)
    known = {field.name for group in groups for field in dataclasses.fields(group)}
    _load_defaults(parser, path, known)
    arguments = parser.parse_args(argv)
    return name, [_build(group, arguments) for group in groups]


def _let_flags_stand_alone(parser: jsonargparse.ArgumentParser) -> None:
    """--dry_run means --dry_run true."""
    for action in parser._actions:
        if getattr(action, "_typehint", None) is bool:
            action.nargs, action.const = "?", True


def shipped() -> list[str]:
    """Names of the configurations in `configs/`."""
    return sorted(file.name.removesuffix(".yaml") for file in _shipped_folder().iterdir()
                  if file.name.endswith(".yaml"))


def to_yaml(options: list[Any], path: Path) -> None:
    """Write option groups as one flat YAML file that `--config` reads back, atomically and durably."""
    with replacing(path) as file:
        file.write(yaml.safe_dump(flat(options), sort_keys=False, allow_unicode=True))


def _shipped_folder() -> Any:
    return resources.files("raft_fast_configs")


def _find_config(config: str) -> tuple[str, Path]:
    if config in shipped():
        return config, Path(str(_shipped_folder() / f"{config}.yaml"))
    path = Path(config)
    if not path.is_file():
        raise UserError(f"--config {config}: no such file, and not one of {', '.join(shipped())}")
    return path.stem, path


def _load_defaults(parser: jsonargparse.ArgumentParser, path: Path, known: set[str]) -> None:
    """Make the file's values the parser's defaults. Keys of other entries are ignored, unknown ones fail."""
    values = from_yaml(path) or {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold `key: value` lines")
    every = {field.name for group in ALL_GROUPS for field in dataclasses.fields(group)}
    for key in values:
        if key not in every:
            raise UserError(f"{path}: unknown key {key!r}{_nearest(str(key), every)}")
    mine = {key: value for key, value in values.items() if key in known}
    try:
        checked = parser.parse_object(mine)
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('--')}") from error
    parser.set_defaults({key: checked[key] for key in mine})


def _build(group: type[Group], arguments: jsonargparse.Namespace) -> Group:
    return group(**{field.name: arguments[field.name] for field in dataclasses.fields(group)})  # type: ignore[arg-type]
