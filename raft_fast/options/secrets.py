"""Credentials where they would be written down: options are kept in config.yaml, reports and errors."""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from raft_fast.errors import UserError
from raft_fast.terminal import SECRET

URL = re.compile(r"https?://[^\s,]+?(?=\+https?://|[\s,]|$)")
INSTEAD = "put the key into an environment variable and name it at the URL's end, as in https://host/v1#MY_KEY"


def refuse_in_urls(option: str, text: str, instead: str = INSTEAD) -> None:
    """Raises UserError, without quoting it and with what to do `instead`, where a URL in `text` holds a
    password or a key."""
    for url in URL.findall(text):
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise UserError(f"{option}: holds a URL that cannot be read ({error})") from error
        if "@" in parts.netloc:
            raise UserError(f"{option}: a URL holds a user or password, which would be written into files; "
                            f"{instead}")
        if name := _secret(name for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
            raise UserError(f"{option}: a URL holds a secret ({name}), which would be written into files; "
                            f"{instead}")


def refuse_in_body(option: str, body: Mapping[str, Any]) -> None:
    """Raises UserError where a key of `body`, at any depth, is named like a credential."""
    if name := _secret(body):
        raise UserError(f"{option}: {name} looks like a secret, which would be written into files; {INSTEAD}")
    for value in body.values():
        if isinstance(value, Mapping):
            refuse_in_body(option, value)


def _secret(names: Iterable[str]) -> str | None:
    return next((name for name in names if SECRET.search(name)), None)
