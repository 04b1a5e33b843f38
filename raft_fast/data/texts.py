"""Conversations and texts: what a turn is, and texts made comparable."""

import re
import unicodedata
from typing import TypedDict

# marks that combine are sorted, a run of them in time of its square; Unicode's stream-safe texts have 30
MARKS = re.compile(r"([^\w\s]{30})[^\w\s]+")


class Message(TypedDict):
    """One turn of a conversation; role is system, user or assistant."""

    role: str
    content: str


def trim(text: str) -> str:
    """The text without blank lines before and blanks after it; its first line stays indented, as code is."""
    before = text[: len(text) - len(text.lstrip())]
    indent = before.removeprefix(before.rstrip(" \t"))
    return indent * (indent != " ") + text.strip()  # one space: many an answer begins with it


def letters(text: str) -> str:
    """The text in Unicode's compatibility form and without case, for comparing words."""
    return unicodedata.normalize("NFKC", MARKS.sub(r"\1", text)).casefold()
