"""Reading the command line and the YAML file it names into option groups (`raft_fast.run.options`).

YAML is the default, the command line wins, an unknown key fails. Shipped configurations live in
`configs/`.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

import jsonargparse
import yaml

from raft_fast.run.errors import UserError
from raft_fast.run.files import load_yaml, no_yaml, write_yaml, yaml_as_written
from raft_fast.run.options import ALL_GROUPS, flat
from raft_fast.run.terminal import LEAST

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)  # they are what --help says

Group = TypeVar("Group")
Option = dataclasses.Field[Any]
SWITCH = dict.fromkeys(("true", "yes", "on", "y", "t", "1"), True) | dict.fromkeys(
    ("false", "no", "off", "n", "f", "0"), False)
KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text",
                         dict: 'an object, as in {"key": "value"}'}


class _Help(jsonargparse.DefaultHelpFormatter):
    """Says choices once: they stand beside the option already."""

    def _get_type_str(self, action: Any) -> str | None:
        kind = super()._get_type_str(action)
        return None if kind and kind.startswith("Literal[") else kind


class _Parser(jsonargparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest option where a name is unknown."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        if "unrecognized arguments: " in message:
            word = message.split("unrecognized arguments: ")[1].split()[0]
            wrong = word.split("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            if wrong.startswith("-"):
                message = f"unknown option {wrong}{nearest(wrong, known)}"
            else:
                is_file = "=" not in word and Path(word).suffix[1:].isalpha()
                near = f" (did you mean --data {word}?)" if is_file else nearest(f"--{wrong}", known)
                message = f"{word}: an option must stand before it{near}"
        raise UserError(f"{message} (see python -m {self.prog} --help)")


def taken(option: Option, told: Any) -> Any:
    """The value of an option, from what the command line or a file says: a text, a list of texts, a mapping,
    None for null, or the value itself. Raises UserError for anything that the option does not take."""
    kind, may_be_none, found = option.type, False, None
    if isinstance(kind, UnionType):  # of a kind and None
        (kind, _), may_be_none = get_args(kind), True
    plain: Any = get_origin(kind) or kind
    must = KINDS.get(plain, "")
    if may_be_none and told in (None, "null"):
        return None
    if plain is Literal:
        choices = get_args(kind)
        off = "off" if "off" in choices and SWITCH.get(str(told).lower()) is False else None
        found, must = told if told in choices else off, f"one of {', '.join(choices)}"
    elif option.metadata.get("listed"):
        found, must = _listed(told), "names separated by commas, or a list of them"
    elif told is None:  # a switch that nobody turns; of a number it may mean anything, as of save_total_limit
        found = option.default if plain is bool else None
    else:
        found = told if type(told) is plain else READ[plain](told)
    if found is None:
        must = option.metadata.get("must", must).replace("TOLD", str(told))
        hidden = plain is dict and len(str(told)) >= LEAST  # it may hold a key
        shown = "" if hidden else " null" if told is None else f" {told}"
        raise UserError(f"--{option.name}{shown}: must be {must}")
    return found


def _listed(told: Any) -> str | None:
    """Names with commas between them. None for anything but texts."""
    if isinstance(told, str):
        told = [told]
    if not isinstance(told, list) or not all(isinstance(one, str) for one in told):
        return None
    text = " ".join(told)
    if text.startswith("[") and text.endswith("]"):  # a list on the command line
        return _listed(_yaml(text, yaml_as_written))
    return ",".join(told)


def _number(told: Any) -> int | float | None:
    found = _yaml(told) if isinstance(told, str) else told
    return found if type(found) in (int, float) else None


def _whole(told: Any) -> int | None:
    found = _number(told)
    return int(found) if found is not None and float(found).is_integer() else None


def _mapping(told: Any) -> dict[str, Any] | None:
    found = _yaml(told)
    return found if isinstance(found, dict) else None


def _yaml(told: Any, load: Any = load_yaml) -> Any:
    """None where it is no YAML."""
    try:
        return load(told) if isinstance(told, str) else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


READ: dict[Any, Any] = {
    int: _whole, dict: _mapping, str: lambda told: None,
    float: lambda told: None if (found := _number(told)) is None else float(found),
    bool: lambda told: SWITCH.get(str(told).lower())}


def nearest(wrong: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


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
    options = {option.name: option for group in groups for option in dataclasses.fields(group)}
    for action in parser._actions:
        if (option := options.get(action.dest)) is not None:
            _read_as(action, option)
    arguments = parser.parse_args(argv)
    name, path = _find_config(arguments.config)
    parser.set_defaults(_values(path, options))
    arguments = parser.parse_args(argv)
    return name, [_build(group, arguments) for group in groups]


def _read_as(action: Any, option: Option) -> None:
    """Have the parser take values as files do; --dry_run means --dry_run true, and lists may have spaces."""
    action._check_type = partial(taken, option)
    if option.type is bool:
        action.nargs, action.const = "?", True
    elif option.metadata.get("listed"):
        action.nargs = "+"


def shipped() -> list[str]:
    """Names of the configurations in `configs/`."""
    return sorted(file.name.removesuffix(".yaml") for file in _shipped_folder().iterdir()
                  if file.name.endswith(".yaml"))


def to_yaml(options: list[Any], path: Path) -> None:
    """Write option groups as one flat YAML file that `--config` reads back, atomically and durably."""
    write_yaml(flat(options), path)


def _shipped_folder() -> Any:
    return resources.files("raft_fast_configs")


def _find_config(config: str) -> tuple[str, Path]:
    if config in shipped():
        return config, Path(str(_shipped_folder() / f"{config}.yaml"))
    path = Path(config)
    if not path.is_file():
        raise UserError(f"--config {config}: no such file, and not one of {', '.join(shipped())}")
    return path.stem, path


def _values(path: Path, options: Mapping[str, Option]) -> dict[str, Any]:
    """What a file says of these options. Keys of other entries are ignored, unknown ones fail."""
    try:
        text = path.read_bytes()
        told = yaml_as_written(text)
    except RecursionError:
        raise UserError(f"{path}: not valid YAML: it is nested too deeply") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: {no_yaml(error, text)}") from error
    if not isinstance(told, dict | None):
        raise UserError(f"{path}: must hold `key: value` lines")
    every = {field.name for group in ALL_GROUPS for field in dataclasses.fields(group)}
    for key in told or {}:
        if key not in every:
            raise UserError(f"{path}: unknown key {key!r}{nearest(str(key), every)}")
    try:
        return {key: taken(options[key], one) for key, one in (told or {}).items() if key in options}
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('--')}") from error


def _build(group: type[Group], arguments: jsonargparse.Namespace) -> Group:
    return group(**{field.name: arguments[field.name] for field in dataclasses.fields(group)})  # type: ignore[arg-type]
