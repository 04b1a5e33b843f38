"""Foreign text that is shown or written down: without control characters and credentials."""

import base64
import functools
import html
import json
import os
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

VISIBLE = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160))
           if code not in (9, 10)}
_OF = "(?:api|access|auth|secret|private)"
_NAMES = (f"(?:{_OF}?(?:key|secrets?|passwords?|passwd|passphrase|pwd|token|auth|authorization|sig|signature"
          f"|credentials?|bearer)|{_OF}[_-]?(?:key|token)s)")
SECRET = re.compile(rf"(?:^|[\W_]){_NAMES}$", re.IGNORECASE)
LEAST = 8  # characters of a value that is masked: shorter ones are placeholders (EMPTY), and parts of words
LONG = 16
MASK = "***"
key_variables: set[str] = set()
"""Environment variables that hold a key, whatever they are called."""

_IN_URL = re.compile(rf"(?<=://)[^\s/?#\"'<>]*@|(?<=[?&;])([\w.%-]*{_NAMES}=)[^&;\s\"'<>]+",
                     re.IGNORECASE)


def visible(text: str) -> str:
    """The text with control characters, but tab and newline, replaced by U+FFFD."""
    return text.translate(VISIBLE)


def masked(text: str) -> str:
    """The text with *** for credentials: those in URLs, and the values of environment variables that are
    named like one, or are in `key_variables`; also half of a value, and its usual encodings. Mask before
    truncating: less than half of a value is not recognised."""
    text = _IN_URL.sub(lambda found: f"{found[1]}{MASK}" if found[1] else f"{MASK}@", text)
    values = frozenset(_values())
    return _pattern(values).sub(MASK, text) if values else text


def without_keys(text: str) -> str:
    """A reply with *** for the keys that were sent to servers, if they are long enough not to be words."""
    keys = (os.environ.get(name, "").strip() for name in key_variables)
    values = frozenset(key for key in keys if len(key) >= LONG)
    return _pattern(values).sub(MASK, text) if values else text


def _values() -> Iterator[str]:
    for name, value in os.environ.items():
        value, found = value.strip(), []
        if name.lower().endswith("_proxy"):
            user = unquote(value.rpartition("@")[0].rpartition("://")[2])
            found = [user, user.partition(":")[2]]
        elif name in key_variables or (SECRET.search(name) and name != "PWD" and not os.path.exists(value)):
            found = [value]
        yield from (one for one in found if len(one) >= LEAST)


@functools.lru_cache(4)
def _pattern(values: frozenset[str]) -> re.Pattern[str]:
    forms = {form for value in values for form in _forms(value) if len(form) >= LEAST}
    half = {form: max(LEAST, len(form) // 2) for form in forms}
    heads = "|".join(sorted(re.escape(form[: half[form]]) for form in forms))
    tails = "|".join(sorted(re.escape(form[-half[form] :]) for form in forms))
    return re.compile(rf"(?:{heads})[^\s\"'<>,;&@]*|{tails}", re.IGNORECASE)


def _forms(value: str) -> Iterator[str]:
    """The value as servers echo it: plain, escaped, and inside of base64 at any offset."""
    yield from (value, quote(value, "", errors="surrogateescape"), html.escape(value))
    yield json.dumps(value)[1:-1]
    data = value.encode("utf-8", "surrogateescape")
    for skipped in range(3):
        text = base64.b64encode(bytes(skipped) + data).decode()
        text = text[(0, 2, 3)[skipped] : len(text) - (0, 3, 2)[(skipped + len(data)) % 3]]
        yield from (text, text.translate(str.maketrans("+/", "-_")))
