"""Reading the command line and the YAML file it names into option groups (`raft_fast.run.options`).

YAML is the default, the command line wins, an unknown key fails. Shipped configurations live in `configs/`.
"""

import argparse
import dataclasses
import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import yaml

from raft_fast.run.errors import UserError
from raft_fast.run.files import load_yaml, not_yaml, write_yaml
from raft_fast.run.options import ALL_GROUPS, Group, docs, flat
from raft_fast.run.terminal import LEAST

Option = dataclasses.Field[Any]
SWITCH = dict.fromkeys(("true", "yes", "on", "y", "t", "1"), True) | dict.fromkeys(
    ("false", "no", "off", "n", "f", "0"), False)
KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text",
                         dict: 'an object, as in {"key": "value"}'}


def parse(
    program: str, description: str, groups: list[type], argv: list[str] | None = None,
    default: str = "raft", recipe_defaults: Callable[[str], Mapping[str, Any]] = lambda name: {},
) -> tuple[str, list[Any]]:
    """Read the command line (`argv`, else that of the process) and the YAML file it names.

    Returns the configuration's name and one instance for each of `groups`. `default` names the shipped
    configuration used without --config; `recipe_defaults` gives the defaults that --recipe changes. Raises
    UserError for everything that is not an option, or not a value of one.
    """
    parser = _Parser(prog=f"raft_fast.{program}", description=description, allow_abbrev=False,
                     usage=f"python -m raft_fast.{program} [--config FILE] [--option value ...]")
    parser.add_argument("--config", metavar="FILE", default=default, help=(
        f"YAML file, or the name of a shipped one: {', '.join(shipped())}"))
    for group in groups:
        _add(parser.add_argument_group(group.__doc__), group)
    found = vars(parser.parse_args(argv))
    options = {option.name: option for group in groups for option in dataclasses.fields(group)}
    name, path = _find_config(found.pop("config"))
    given = _values(path, options) | {key: taken(options[key], told) for key, told in found.items()}
    if "recipe" in options:
        given = {**recipe_defaults(given.get("recipe", options["recipe"].default)), **given}
    return name, [group(**{one.name: given[one.name] for one in dataclasses.fields(group)
                           if one.name in given}) for group in groups]


def _add(section: Any, group: type[Group]) -> None:
    """An argument for every option of the group; absent ones stay out of the result."""
    said = docs(group)
    for one in dataclasses.fields(group):
        default = one.default_factory() if callable(one.default_factory) else one.default
        text = said[one.name] + ("" if default is None else f" (default: {shown(default)})")
        nargs = "?" if one.type is bool else "+" if one.metadata.get("listed") else None
        section.add_argument(
            f"--{one.name}", nargs=nargs, const="true" if nargs == "?" else None, default=argparse.SUPPRESS,
            metavar=kind_of(one), help=text.replace("%", "%%"))


def kind_of(option: Option) -> str:
    """The kind of value of an option, in a word or as its choices."""
    kind: Any = get_args(option.type)[0] if isinstance(option.type, UnionType) else option.type
    if get_origin(kind) is Literal:
        return f"{{{','.join(get_args(kind))}}}"
    if option.metadata.get("listed"):
        return "NAMES"
    return {int: "INT", float: "FLOAT", bool: "BOOL", str: "TEXT"}.get(kind, "JSON")


def shown(value: Any) -> str:
    """A value as it is written in YAML."""
    return str(value) if value and not isinstance(value, bool) else json.dumps(value)


class _Parser(argparse.ArgumentParser):
    """Reports mistakes in one line, with the nearest option for an unknown name."""

    def error(self, message: str) -> Any:
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


def nearest(wrong: str, known: Iterable[str]) -> str:
    """A hint with the nearest name; empty if none is near."""
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def taken(option: Option, told: Any) -> Any:
    """The value of an option from what the command line, a file or a caller gives: a text, a list of texts, a
    mapping, None for null, or the value itself. Raises UserError for anything that is not a value of it."""
    kind, found = option.type, None
    if isinstance(kind, UnionType):  # of a kind and None
        kind = get_args(kind)[0]
        if told in (None, "null"):
            return None
    plain: Any = get_origin(kind) or kind
    must = KINDS.get(plain, "")
    if plain is Literal:
        choices = get_args(kind)
        off = "off" if "off" in choices and SWITCH.get(str(told).lower()) is False else None
        found, must = told if told in choices else off, f"one of {', '.join(choices)}"
    elif option.metadata.get("listed"):
        found, must = _names(told), "names separated by commas, or a list of them"
    elif told is None:  # a switch keeps its default; for a number null could mean anything
        found = option.default if plain is bool else None
    elif type(told) is plain:
        found = told
    elif plain is bool:
        found = SWITCH.get(str(told).lower())
    elif plain is not str:
        found = _converted(plain, _yaml(told) if isinstance(told, str) else told)
    if found is None:
        must = option.metadata.get("must", must) if plain is bool else must
        hidden = plain is dict and len(str(told)) >= LEAST  # it may hold a key
        value = "" if hidden else " null" if told is None else f" {told}"
        raise UserError(f"--{option.name}{value}: must be {must.replace('TOLD', str(told))}")
    return found


def _converted(kind: Any, value: Any) -> Any:
    """A value of YAML as a number or a mapping; None if it is not one."""
    if kind is dict:
        return value if isinstance(value, dict) else None
    if type(value) not in (int, float) or (kind is int and not float(value).is_integer()):
        return None
    return kind(value)


def _names(told: Any) -> str | None:
    """Names separated by commas. None for anything but texts."""
    told = [told] if isinstance(told, str) else told
    if not isinstance(told, list) or not all(isinstance(one, str) for one in told):
        return None
    text = " ".join(told)
    if text.startswith("[") and text.endswith("]"):  # a list on the command line
        return _names(_yaml(text, lambda text: yaml.load(text, yaml.BaseLoader)))
    return ",".join(told)


def _yaml(text: str, load: Callable[[str], Any] = load_yaml) -> Any:
    """None if it is not YAML."""
    try:
        return load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def shipped() -> list[str]:
    """Names of the configurations in `configs/`."""
    return sorted(file.name.removesuffix(".yaml") for file in resources.files("raft_fast_configs").iterdir()
                  if file.name.endswith(".yaml"))


def to_yaml(options: list[Any], path: Path) -> None:
    """Write option groups as one flat YAML file that `--config` reads back, atomically and durably."""
    write_yaml(flat(options), path)


def _find_config(config: str) -> tuple[str, Path]:
    if config in shipped():
        return config, Path(str(resources.files("raft_fast_configs") / f"{config}.yaml"))
    path = Path(config)
    if not path.is_file():
        raise UserError(f"--config {config}: no such file, and not one of {', '.join(shipped())}")
    return path.stem, path


def _values(path: Path, options: Mapping[str, Option]) -> dict[str, Any]:
    """The values of these options in a file. Keys of other commands are ignored, unknown ones fail."""
    try:
        text = path.read_bytes()
        told, written = load_yaml(text), yaml.load(text, yaml.BaseLoader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: {not_yaml(error, text)}") from error
    if not isinstance(told, dict | None):
        raise UserError(f"{path}: must hold `key: value` lines")
    every = {field.name for group in ALL_GROUPS for field in dataclasses.fields(group)}
    for key in told or {}:
        if key not in every:
            raise UserError(f"{path}: unknown key {key!r}{nearest(str(key), every)}")
    # names such as 007 and 1e5 are texts as they are written
    texts = {key: value if isinstance(value, dict | None) else written.get(key, value)
             for key, value in (told or {}).items()}
    try:
        return {key: taken(options[key], value) for key, value in texts.items() if key in options}
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('--')}") from error
