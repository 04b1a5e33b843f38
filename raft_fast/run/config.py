"""Options from a command line and the YAML file it names, or from keywords of Python.

YAML is the default, the command line wins, an unknown key fails. Shipped configurations live in `configs/`.
`python dev/options.py > docs/OPTIONS.md` writes every option down."""

import argparse
import dataclasses
import difflib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import yaml

from raft_fast.run.errors import UserError
from raft_fast.run.files import load_yaml, not_yaml
from raft_fast.run.option import check_needs, default_of
from raft_fast.run.options import ALL_GROUPS, Options

Option = dataclasses.Field[Any]
GROUPS: list[Any] = Options.kinds()
SWITCH = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
KINDS: dict[Any, tuple[str, str]] = {
    int: ("INT", "a whole number"), float: ("FLOAT", "a number"), bool: ("BOOL", "true or false"),
    str: ("TEXT", "text"), dict: ("JSON", 'an object, as in {"key": "value"}')}
_NAMES = yaml.safe_load((resources.files(__package__) / "names.yaml").read_text(encoding="utf-8"))
DROPPED, FIXED, INSTEAD = _NAMES["dropped"], _NAMES["fixed"], _NAMES["instead"]


def parse(program: str, description: str, groups: list[type], argv: list[str] | None = None,
          default: str = "raft", recipe_defaults: Callable[[str], Mapping[str, Any]] = lambda name: {}
         ) -> tuple[str, list[Any]]:
    """The configuration's name and an instance of each of `groups`, from the command line (`argv`, else that
    of the process) and the YAML file it names.

    `default`: the shipped configuration used without --config. `recipe_defaults`: the defaults that --recipe
    changes. Raises UserError for everything that is not an option, or not a value of one."""
    parser = _Parser(prog=f"python -m raft_fast.{program}", description=description, allow_abbrev=False,
                     conflict_handler="resolve", usage="%(prog)s [--config FILE] [--option value ...]")
    parser.add_argument("--config", metavar="FILE", default=default, help=(
        f"YAML file, or the name of a shipped one: {', '.join(shipped())}"))
    for group in groups:
        section = parser.add_argument_group(group.__doc__)
        for one in dataclasses.fields(group):
            value, flag = default_of(one), one.type is bool
            text = one.metadata["help"] + ("" if value is None else f" (default: {shown(value)})")
            section.add_argument(  # absent ones stay out of the result
                f"--{one.name}", nargs="?" if flag else "+" if _listed(one) else None,
                const="true" if flag else None, default=argparse.SUPPRESS, metavar=kind_of(one),
                help=text.replace("%", "%%"))
    found = vars(parser.parse_args(argv))
    options = {one.name: one for group in groups for one in dataclasses.fields(group)}
    name, path = _find_config(found.pop("config"))
    given = _values(path, options) | {key: taken(options[key], told) for key, told in found.items()}
    if "recipe" in options:
        given = {**checked(recipe_defaults(given.get("recipe", options["recipe"].default))), **given}
    return name, [group(**{one.name: given[one.name] for one in dataclasses.fields(group)
                           if one.name in given}) for group in groups]


class _Parser(argparse.ArgumentParser):
    """Reports mistakes in one line, with the nearest option for an unknown name."""

    def error(self, message: str) -> Any:
        if "unrecognized arguments: " in message:
            word = message.split("unrecognized arguments: ")[1].split()[0].split("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            near = nearest(word if word[0] == "-" else f"--{word}", known)
            message = f"unknown option {word}{': use --data FILE' if Path(word).suffix else near}"
        raise UserError(f"{message} (see {self.prog} --help)")


def kind_of(option: Option) -> str:
    """The kind of value of an option, in a word or as its choices."""
    plain, choices, _ = _kind(option)
    return f"{{{','.join(choices)}}}" if plain is Literal else "NAMES" if _listed(option) else KINDS[plain][0]


def _kind(option: Option) -> tuple[Any, tuple[Any, ...], bool]:
    """The plain type of an option, its choices if it is Literal, and whether it may be None."""
    optional = isinstance(option.type, UnionType)
    kind: Any = get_args(option.type)[0] if optional else option.type
    return get_origin(kind) or kind, get_args(kind), optional


def _listed(option: Option) -> bool:
    return bool(option.metadata.get("listed"))


def shown(value: Any) -> str:
    """A value as it is written in YAML."""
    return str(value) if value and not isinstance(value, bool) else json.dumps(value)


def nearest(wrong: str, known: Iterable[str]) -> str:
    """What to use for an unknown name, or the nearest one; empty if none is near."""
    name = wrong.removeprefix("--")
    if name in INSTEAD:
        return f": {INSTEAD[name]}"
    if name in DROPPED:
        return f": this option was removed; the value is always {shown(DROPPED[name])}"
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def taken(option: Option, told: Any) -> Any:
    """The value of an option from what the command line, a file or a caller gives: a text, a list of texts, a
    mapping, None for null, or the value itself. Raises UserError for anything that is not a value of it."""
    plain, choices, optional = _kind(option)
    if optional and told in (None, "null"):
        return None
    must = (f"one of {', '.join(choices)}" if plain is Literal else
            "names separated by commas, or a list of them" if _listed(option) else KINDS[plain][1])
    try:
        found = (_names(told) if _listed(option) else _plain(plain, told) if plain is not Literal else
                 told if told in choices else None)
    except (TypeError, ValueError, OverflowError, RecursionError, yaml.YAMLError):
        found = None
    if found is None:
        must = option.metadata.get("must", must) if plain is bool else must
        value = "" if plain is dict else " null" if told is None else f" {told}"  # a mapping may hold a key
        raise UserError(f"--{option.name}{value}: must be {must}")
    return found


def _plain(kind: type, told: Any) -> Any:
    """A number, truth, text or mapping. None, or an error of Python, if it is none such."""
    if kind in (bool, str):
        return told if type(told) is kind else SWITCH.get(str(told).lower()) if kind is bool else None
    if kind is dict:
        found = load_yaml(told) if isinstance(told, str) else told
        return found if isinstance(found, dict) else None
    if isinstance(told, str):
        told = int(told) if told.strip("+-").replace("_", "").isdecimal() else float(told)
    exact = type(told) is int or (type(told) is float and (kind is float or told == int(told)))
    return kind(told) if exact else None


def _names(told: str | list[str]) -> str | None:
    """Names separated by commas."""
    text = told if isinstance(told, str) else " ".join(told)
    if text.startswith("[") and text.endswith("]"):  # a list on the command line
        told = yaml.load(text, yaml.BaseLoader)
    return ",".join(told) if isinstance(told, list) else told if isinstance(told, str) else None


def shipped() -> list[str]:
    """Names of the configurations in `configs/`."""
    return sorted(file.name.removesuffix(".yaml") for file in resources.files("raft_fast_configs").iterdir()
                  if file.name.endswith(".yaml"))


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
        raise UserError(f"{path}: {not_yaml(error)}") from error
    if not isinstance(told, dict | None):
        raise UserError(f"{path}: must hold `key: value` lines")
    every = {one.name for group in ALL_GROUPS for one in dataclasses.fields(group)}
    for key, value in (told or {}).items():
        if key not in every and DROPPED.get(key, ...) != value:
            raise UserError(f"{path}: unknown key {key!r}{nearest(str(key), every)}")
    try:  # names such as 007 and 1e5 are texts as they are written
        return {key: taken(options[key], value if isinstance(value, dict | None) else written.get(key, value))
                for key, value in (told or {}).items() if key in options}
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('--')}") from error


FIELDS = {one.name: one for group in GROUPS for one in dataclasses.fields(group)}
SIGNATURE = inspect.Signature([
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default_of(one), annotation=one.type)
    for name, one in FIELDS.items()])


def read(name: str, value: Any) -> Any:
    """The value of an option as the command line would read it. Raises UserError where it takes none such."""
    return taken(FIELDS[name], os.fspath(value) if isinstance(value, os.PathLike) else value)


def checked(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's defaults as values of their options. Raises UserError for what is no option or no value."""
    if unknown := next((name for name in defaults if name not in FIELDS), None):
        raise UserError(f"defaults of the recipe: unknown option {unknown}{nearest(unknown, FIELDS)}")
    return {name: read(name, value) for name, value in defaults.items()}


class Arguments:
    """The options of a run as keywords, beside those of transformers that have one value here; `defaults`
    hold where nothing is given."""

    name: str  # of the recipe, or of the command line's configuration
    given: dict[str, Any] | None  # what Python was given; None: the command line's

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.given = dict(given)
        fixed = {**FIXED, "eval_strategy": "steps" if given.get("eval_steps") else "no"}
        for name, value in given.items():
            if name not in FIELDS and (name not in fixed or value != fixed[name]):
                raise UserError(f"RAFTConfig({name}={value!r}): unknown option{nearest(name, FIELDS)}")
        options = {name: value for name, value in given.items() if name in FIELDS}
        told = checked(defaults) | {name: read(name, value) for name, value in options.items()}
        self.__dict__.update({name: default_of(one) for name, one in FIELDS.items()} | told)
        check_needs([name for name, value in options.items() if value != FIELDS[name].default],
                    self.options().groups)

    def __getattr__(self, name: str) -> Any:
        if name == "eval_strategy":
            return "steps" if self.eval_steps else "no"
        if name in FIXED:
            return FIXED[name]
        raise AttributeError(f"{type(self).__name__} has no {name}")

    def options(self) -> Options:
        """The options by group. Raises UserError for values that are refused."""
        return Options(*(group(**{one.name: getattr(self, one.name) for one in dataclasses.fields(group)})
                         for group in GROUPS))

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.output_dir or f"runs/{self.name}")

    @property
    def run_name(self) -> str:
        """What trackers call the run."""
        return self.folder.name

    def to_dict(self) -> dict[str, Any]:
        """Every option by its name, as callbacks of transformers read it."""
        return {**self.options().flat(), "output_dir": str(self.folder)}

    to_sanitized_dict = to_dict

    def to_json_string(self) -> str:
        return json.dumps(self.to_dict(), indent=2)
