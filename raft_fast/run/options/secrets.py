"""Credentials in options are refused: config.yaml, reports and errors would show them."""

import os
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from raft_fast.run.errors import UserError
from raft_fast.run.terminal import SECRET

URL = re.compile(r"\b\w+://[^\s,]+?(?=\+\w+://|[\s,]|$)")
INSTEAD = "put the key into an environment variable and name it at the URL's end, as in https://host/v1#MY_KEY"
VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
KEY_PART = re.compile(r"[^\W_]{12,}", re.ASCII)  # letters and digits of a key in a row
# names that end in token or key and are not credentials: of a vocabulary, of a cache
NO_SECRET = re.compile(
    r"(?:^|[\W_])(?:max|min|stop|pad|padding|eos|bos|eot|eom|unk|sep|cls|mask|start|end|first|last|next|new|per"
    r"|special|prefix|suffix|prompt|completion|output|input|budget|think|thinking|reasoning|image|audio|video"
    r"|tool|text|single|draft|bad|banned|allowed|separator|trigger|assistant|system|role|turn|num)s?[\W_]?token$"
    r"|(?:^|[\W_])(?:cache|sort|group|partition|primary|foreign|routing|index)[\W_]?key$", re.IGNORECASE)


def refuse_in_urls(option: str, text: str, instead: str = INSTEAD) -> None:
    """Raises UserError, which does not quote it and says what to do `instead`, if a URL in `text` holds a
    password or a key."""
    for url in URL.findall(text):
        try:
            parts = urlsplit(url)
            names = [name for name, _ in parse_qsl(parts.query.replace(";", "&"), keep_blank_values=True)]
            _ = "@" in parts.netloc or parts.port  # raises for http://user:half/of@host
        except ValueError as error:  # it quotes the URL, and so a password
            raise UserError(f"{option}: the host or port of a URL cannot be read; correct it") from error
        if "@" in parts.netloc:
            raise UserError(f"{option}: a URL holds a user or password, which would be written into files; "
                            f"{instead}")
        if name := _secret(names):
            raise UserError(f"{option}: a URL holds a secret ({name}), which would be written into files; "
                            f"{instead}")
        if parts.fragment and parts.fragment not in os.environ and not _names_a_variable(parts.fragment):
            raise UserError(f"{option}: what follows # in a URL is not the name of an environment variable, "
                            f"and may be a key, which would be written into files; {instead}")


def refuse_in_body(option: str, body: Any) -> None:
    """Raises UserError if a key of `body`, at any depth, is named like a credential."""
    if isinstance(body, list):
        for one in body:
            refuse_in_body(option, one)
    if not isinstance(body, dict):
        return
    if name := _secret(str(name) for name, value in body.items() if not isinstance(value, bool | None)):
        raise UserError(f"{option}: {name} looks like a secret, which would be written into files; {INSTEAD}")
    for name, value in body.items():
        schema = name == "properties" and isinstance(value, dict)  # of JSON: its keys are names in replies
        refuse_in_body(option, list(value.values()) if schema else value)


def _secret(names: Iterable[str]) -> str | None:
    for name in names:
        parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)  # accessToken
        if SECRET.search(parts) and not NO_SECRET.search(parts):
            return name
    return None


def _names_a_variable(text: str) -> bool:
    """Whether it is a variable's name and no key: keys have long parts of mixed case, or with digits."""
    return VARIABLE.fullmatch(text) is not None and all(
        part.isalpha() and part in (part.upper(), part.lower()) for part in KEY_PART.findall(text))
