"""The lines of the journal: what one says, and where each is in a file that may be damaged."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from raft_fast.data.texts import Message
from raft_fast.engines import Reply, Sampling
from raft_fast.engines.base import valid

KEY_BYTES = 16
FINISHED = {"finished": True}  # the line that a run which came to its end leaves
_REPLY_FIELDS = {field.name for field in fields(Reply)}


@dataclass(frozen=True)
class Recorded(Reply):
    """A reply and the key of its line in the journal."""

    key: str = ""


def recorded(line: dict[str, Any]) -> Recorded:
    """The reply in a line. Raises KeyError, TypeError or AttributeError where there is none that can be
    used; half characters in its text are replaced."""
    reply = {name: value for name, value in line["reply"].items() if name in _REPLY_FIELDS}
    for name in ("prompt_tokens", "completion_tokens"):
        if not isinstance(reply.get(name, 0), int):
            raise TypeError(name)
    for name in ("text", "error"):
        if reply.get(name) is not None:
            reply[name] = valid(reply[name])
    return Recorded(**reply, key=line["key"])


def request_key(
    kind: str, identity: str, messages: list[Message], sampling: Sampling | None,
    prompt_version: str,
) -> bytes:
    """What a request is known by: everything that shapes its reply."""
    request: list[Any] = [kind, identity, messages, vars(sampling) if sampling else None,
                          prompt_version]
    text = json.dumps(request, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()[:KEY_BYTES]


def scan(
    path: Path, remember: Callable[[bytes, int], None], retry_failed: bool
) -> tuple[int, int]:
    """Tell `remember` of every key and where its line begins.

    Failures count where the run that noted them came to its end, and not with `retry_failed`. Returns
    where the last whole line ends and how many lines cannot be read, a cut last one among them.
    """
    end = damaged = 0
    failures: dict[bytes, int] = {}  # since a run last came to its end
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):  # a write that a crash or a full disk cut short
                return end, damaged + 1
            start, end = end, end + len(line)
            try:
                entry = json.loads(line)
                if entry == FINISHED:
                    for key, place in ({} if retry_failed else failures).items():
                        remember(key, place)
                    failures = {}
                    continue
                key, failed = bytes.fromhex(entry["key"]), recorded(entry).error is not None
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                damaged += 1
                continue
            if failed:
                failures[key] = start
            else:
                remember(key, start)
    return end, damaged
